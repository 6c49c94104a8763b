"""The fake Mesos, against what Mesos is known to do, sentence by sentence."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.web.client import Agent as HttpAgent
from twisted.web.http_headers import Headers

from tests.fakes.mesos import Cluster
from tests.fakes.mesos_states import AGENT, agent_state, directory, executor, framework, master_state, recorded, task
from tests.sandboxes.house import Body

SANDBOX = directory("a", "c1")


class Wire:
    """Asks a fake as a client that decodes nothing."""

    def __init__(self, reactor: Any, fake: Cluster, root: Path) -> None:
        self.reactor = reactor
        self.fake = fake
        self.agent = fake.agents[AGENT]
        self.sandbox = self.agent.sandbox(SANDBOX, root)

    async def ask(
        self, peer: Any, path: str, *, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        names = Headers({name.replace("_", "-"): [value] for name, value in headers.items()})
        url = f"http://127.0.0.1:{peer.number}{path}".encode()
        response = await HttpAgent(self.reactor).request(b"GET", url, names)
        found = {name.decode().lower(): values[0].decode() for name, values in response.headers.getAllRawHeaders()}
        body = Body()
        response.deliverBody(body)
        await body.done
        return response.code, found, bytes(body.data)

    async def master(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return await self.ask(self.fake.masters[0], path, **headers)

    async def files(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return await self.ask(self.agent, f"/files/{path}", **headers)


@pytest_twisted.async_yield_fixture
async def wire(reactor: Any, tmp_path: Path) -> AsyncGenerator[Wire, None]:
    """Give a cluster of two masters and one agent."""
    tasks = [task("old", "app", times=[1.0]), task("new", "app", times=[2.0])]
    gone = framework("gone", "past", completed=[task("done", "x", "TASK_FINISHED", times=[0.5], framework_id="gone")])
    fake = Cluster(master_state([framework(tasks=tasks)], [gone]))
    fake.add_agent(AGENT, agent_state([executor("a", "c1")]))
    fake.add_master()
    fake.add_master()
    fake.listen(reactor)
    wire = Wire(reactor, fake, tmp_path)
    (wire.sandbox / "stdout").write_bytes(b"hello")
    yield wire
    await fake.close()


@pytest.mark.parametrize("path", ["/state", "/master/state", "/master/state/", "/master/state/x", "/state/x"])
async def test_paths(wire: Wire, path: str) -> None:
    """The default process, one slash at the end, and the longest prefix that is handled."""
    status, headers, body = await wire.master(path)
    assert (status, headers["content-type"], json.loads(body)["version"]) == (200, "application/json", "1.11.0")


@pytest.mark.parametrize("path", ["//state", "/master/../state", "/nothing", "/state.json", "/redirect/x"])
async def test_paths_that_are_none(wire: Wire, path: str) -> None:
    """A double slash in front, dots, and what is unknown; .json since 1.8; more than /redirect."""
    status, headers, body = await wire.master(path)
    assert (status, body, headers["content-type"]) == (404, b"404 Not Found.", "text/plain; charset=utf-8")


@pytest.mark.parametrize("path", ["/state", "/slave(1)/state", "/slave%281%29/state"])
async def test_agent_paths(wire: Wire, path: str) -> None:
    """An agent's process is slave(1), encoded or not; its files are a process of their own."""
    assert (await wire.ask(wire.agent, path))[0] == 200
    assert (await wire.ask(wire.agent, "/slave(1)/files/browse"))[0] == 404


@pytest.mark.parametrize(
    ("version", "plain", "suffixed"), [("0.19.0", 404, 200), ("1.0.0", 200, 200), ("1.8.0", 200, 404)]
)
async def test_json_suffix(wire: Wire, version: str, plain: int, suffixed: int) -> None:
    """The only way before 0.25, gone from 1.8 on."""
    wire.fake.masters[0].version = wire.agent.version = version
    assert (await wire.master("/state"))[0] == plain
    assert (await wire.master("/state.json"))[0] == suffixed
    assert (await wire.files(f"browse?path={SANDBOX}"))[0] == plain
    assert (await wire.files(f"browse.json?path={SANDBOX}"))[0] == suffixed


async def test_compression_and_scripts(wire: Wire) -> None:
    """From 1024 bytes on answers are compressed for who accepts it, downloads never; jsonp wraps."""
    _, headers, body = await wire.master("/state", Accept_Encoding="gzip")
    assert (headers["content-encoding"], json.loads(gzip.decompress(body))["version"]) == ("gzip", "1.11.0")
    (wire.sandbox / "large").write_bytes(b"x" * 5000)
    _, headers, body = await wire.files(f"download?path={SANDBOX}/large", Accept_Encoding="gzip")
    assert ("content-encoding" in headers, len(body)) == (False, 5000)
    _, headers, body = await wire.master("/slaves?slave_id=none&jsonp=call")
    assert (headers["content-type"], body[:5], body[-1:]) == ("text/javascript", b"call(", b")")


async def test_query(wire: Wire) -> None:
    """A plus is a blank, and the last of two wins."""
    (wire.sandbox / "a b").write_bytes(b"blank")
    assert (await wire.files(f"download?path=x&path={SANDBOX}/a+b"))[2] == b"blank"


async def test_authentication(wire: Wire) -> None:
    """Basic, for all but /redirect and /health; a password with a colon never matches; before the redirect."""
    follower = wire.fake.masters[1]
    follower.credentials = ("u", "p")
    status, headers, body = await wire.ask(follower, "/state")
    assert (status, headers["www-authenticate"], body) == (
        401,
        'Basic realm="mesos-master-readonly"',
        b"401 Unauthorized.",
    )
    good = "Basic " + base64.b64encode(b"u:p").decode()
    assert (await wire.ask(follower, "/state", Authorization=good))[0] == 307
    assert (await wire.ask(follower, "/state", Authorization=good.replace(" ", "  ")))[0] == 401
    assert (await wire.ask(follower, "/redirect"))[0] == 307
    assert (await wire.ask(follower, "/health"))[0] == 200
    follower.credentials = ("u", "p:q")
    assert (await wire.ask(follower, "/state", Authorization="Basic " + base64.b64encode(b"u:p:q").decode()))[0] == 401


async def test_leader(wire: Wire) -> None:
    """Who does not lead sends on, with path and query, by an address without a scheme; without a leader it is 503."""
    leader = f"//127.0.0.1:{wire.fake.masters[0].number}"
    for path in ("/state?x=1", "/slaves", "/tasks?task_id=a", "/frameworks"):
        status, headers, body = await wire.ask(wire.fake.masters[1], path)
        assert (status, headers["location"], body) == (307, leader + path, b"")
    assert (await wire.ask(wire.fake.masters[0], "/master/redirect"))[1]["location"] == leader
    wire.fake.leader = None
    assert (await wire.master("/state"))[::2] == (503, b"No leader elected")
    wire.agent.recovering = True
    assert (await wire.ask(wire.agent, "/state"))[::2] == (503, b"Agent has not finished recovery")


async def test_tasks(wire: Wire) -> None:
    """All lists of all frameworks, newest first, by id, by framework, in pages; odd numbers are the defaults."""

    async def ids(query: str) -> list[str]:
        return [each["id"] for each in json.loads((await wire.master(f"/tasks{query}"))[2])["tasks"]]

    assert await ids("") == ["new", "old", "done"]
    assert await ids("?order=asc&limit=x&offset=-3") == ["done", "old", "new"]
    assert await ids("?limit=1&offset=1") == ["old"]
    assert await ids("?task_id=old") == ["old"]
    assert await ids("?framework_id=gone") == ["done"]


async def test_slaves_and_frameworks(wire: Wire) -> None:
    """One or all; an unknown one is nothing, and no error."""
    assert json.loads((await wire.master("/slaves?slave_id=none"))[2]) == {"slaves": [], "recovered_slaves": []}
    slave = json.loads((await wire.master(f"/slaves?slave_id={AGENT}"))[2])["slaves"][0]
    assert (slave["port"], slave["pid"]) == (wire.agent.number, f"slave(1)@127.0.0.1:{wire.agent.number}")
    found = json.loads((await wire.master("/frameworks?framework_id=gone"))[2])
    assert ([each["id"] for each in found["completed_frameworks"]], found["frameworks"]) == (["gone"], [])


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        ("", 400, b"Expecting 'path=value' in query.\n"),
        ("?path=", 400, b"Expecting 'path=value' in query.\n"),
        (f"?path={SANDBOX}/stdout", 200, b'{"data":"","offset":5}'),
        (f"?path={SANDBOX}/stdout&offset=-1", 200, b'{"data":"","offset":5}'),
        (f"?path={SANDBOX}/stdout&offset=1&length=2", 200, b'{"data":"el","offset":1}'),
        (f"?path={SANDBOX}/stdout&offset=9", 200, b'{"data":"","offset":9}'),
        (f"?path={SANDBOX}/stdout&offset=0&length=0", 200, b'{"data":"","offset":0}'),
        (f"?path={SANDBOX}/stdout&offset=0&length=-1", 200, b'{"data":"hello","offset":0}'),
        ("?path=/none&offset=-2", 400, b"Negative offset provided: -2.\n"),
        ("?path=/none&length=-2", 400, b"Negative length provided: -2.\n"),
        ("?path=/none&offset=hello", 400, b"Failed to parse offset: Failed to convert 'hello' to number.\n"),
        (f"?path={SANDBOX}", 400, b"Cannot read a directory.\n"),
        (f"?path={SANDBOX}/none", 404, b""),
        ("?path=/none", 404, b""),
    ],
)
async def test_read(wire: Wire, query: str, status: int, body: bytes) -> None:
    """A page, a size, or what is wrong: numbers before the path."""
    assert (await wire.files(f"read{query}"))[::2] == (status, body)


async def test_read_gives_bytes_as_they_are(wire: Wire) -> None:
    """Sixteen pages at most; each byte by itself, so that Latin-1 gives them back and UTF-8 may not."""
    data = bytes(range(256)) * 300
    (wire.sandbox / "bytes").write_bytes(data)
    body = (await wire.files(f"read?path={SANDBOX}/bytes&offset=0"))[2]
    assert json.loads(body.decode("latin-1"))["data"].encode("latin-1") == data[:65536]
    with pytest.raises(UnicodeDecodeError):
        body.decode()


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("", 400, b"Expecting 'path=value' in query.\n"),
        (SANDBOX, 400, b"Cannot download a directory.\n"),
        (f"{SANDBOX}/none", 404, b"404 Not Found."),
        (f"{SANDBOX}/empty", 200, b""),
        (f"{SANDBOX}/../../../../x", 404, b"404 Not Found."),
    ],
)
async def test_download(wire: Wire, path: str, status: int, body: bytes) -> None:
    """The bytes, or what is wrong."""
    (wire.sandbox / "empty").touch()
    assert (await wire.files(f"download?path={path}"))[::2] == (status, body)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("stdout", "application/octet-stream"), ("a.txt", "text/plain"), ("a.log", "application/octet-stream")],
)
async def test_download_headers(wire: Wire, name: str, kind: str) -> None:
    """Type by the name's end, name unquoted, length, and nothing to ask by again."""
    (wire.sandbox / name).write_bytes(b"12345")
    _, headers, _ = await wire.files(f"download?path={SANDBOX}/{name}", Range="bytes=1-2")
    assert (headers["content-type"], headers["content-disposition"]) == (kind, f"attachment; filename={name}")
    assert not {"etag", "last-modified", "accept-ranges", "content-range"} & set(headers)


async def test_leaving_the_sandbox(wire: Wire) -> None:
    """A link out is 400 with the real path; what does not exist there is 404."""
    (wire.sandbox / "out").symlink_to("/etc/passwd")
    (wire.sandbox / "nowhere").symlink_to("/etc/none")
    assert (await wire.files(f"download?path={SANDBOX}/out"))[::2] == (400, b"'/etc/passwd' is inaccessible.\n")
    assert (await wire.files(f"download?path={SANDBOX}/nowhere"))[0] == 404


async def test_refused(wire: Wire) -> None:
    """A sandbox that one may not see: with a body for downloads, without for the others; a firewall's rule."""
    wire.agent.files.denied.add(SANDBOX)
    assert (await wire.files(f"download?path={SANDBOX}/stdout"))[::2] == (403, b"403 Forbidden.")
    assert (await wire.files(f"browse?path={SANDBOX}"))[::2] == (403, b"")
    assert (await wire.files(f"read?path={SANDBOX}/stdout"))[::2] == (403, b"")
    wire.agent.disabled.add("/files/debug")
    assert (await wire.files("debug"))[::2] == (403, b"Endpoint '/files/debug' is disabled")


async def test_browse(wire: Wire) -> None:
    """Entries sorted by path, as asked for; a file has none; what is not there is 404 without a body."""
    (wire.sandbox / "dir").mkdir()
    entries = json.loads((await wire.files(f"browse?path={SANDBOX}"))[2])
    assert [(each["path"], each["mode"][0], each["size"] == 5) for each in entries] == [
        (f"{SANDBOX}/dir", "d", False),
        (f"{SANDBOX}/stdout", "-", True),
    ]
    assert set(entries[0]) == {"gid", "mode", "mtime", "nlink", "path", "size", "uid"}
    assert (await wire.files(f"browse?path={SANDBOX}/stdout"))[2] == b"[]"
    assert (await wire.files(f"browse?path={SANDBOX}/none"))[::2] == (404, b"")


async def test_virtual_paths(wire: Wire) -> None:
    """From 1.5 on the newest run has a name without the agent's folders; debug tells what there is."""
    path = f"/frameworks/{framework()['id']}/executors/a/runs/latest/stdout"
    assert (await wire.files(f"download?path={path}"))[2] == b"hello"
    assert SANDBOX in json.loads((await wire.files("debug"))[2])


def test_recorded_states_are_whole() -> None:
    """They hold what their notes say."""
    assert len(Cluster(recorded("master_1.0.json")).tasks()) == 88
    assert [len(each["executors"]) for each in recorded("pair_0.19_agent.json")["frameworks"]] == [2]
