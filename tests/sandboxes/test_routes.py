"""The fetcher's call, from the caller to the file."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.fakes.mesos import Cluster
from tests.fakes.mesos_states import AGENT, agent_state, directory, executor, framework, master_state, task
from tests.sandboxes.house import House

DEPLOYMENT = "11ebadab-8394-76fe-b870-02427cf8dc4c"
APP = f"{DEPLOYMENT}_server.instance-0d5b1f5e-6f4f-11ec-8f43-0242ac110002._app.1"
LINES = b"".join(b"line %d\n" % number for number in range(1, 1001))


def one_task(**settings: Any) -> Cluster:
    """A cluster with one task of a Marathon deployment."""
    state = master_state([framework(tasks=[task(APP, f"server.{DEPLOYMENT}", **settings)])])
    fake = Cluster(state)
    fake.add_agent(AGENT, agent_state([executor(APP, "c1", tasks=[APP])]))
    return fake


@pytest_twisted.async_fixture
async def house(make: Any) -> House:
    """Give a hub before that cluster, with some files in the sandbox."""
    house: House = make(one_task())
    files = {
        "stdout": LINES,
        "empty": b"",
        "dir/x y&z": b"in a folder",
        "page.html": b"<b>",
        "bytes": bytes(range(256)),
    }
    house.put(house.fake.agents[AGENT], directory(APP, "c1"), files)
    return house


async def test_file_of_a_deployment(house: House) -> None:
    """A fetch by deployment gives the file with the agent's type, length and name."""
    reply = await house.fetch(DEPLOYMENT, filename="stdout")
    assert (reply.status, reply.body, reply.whole) == (200, LINES, True)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"] == "attachment; filename=stdout"
    assert reply.headers["content-length"] == str(len(LINES))
    assert reply.headers["x-datahub-task"] == APP
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", [APP, f"server.{DEPLOYMENT}", "server", DEPLOYMENT])
async def test_names_of_a_task(house: House, name: str) -> None:
    """A task is found by its id, its name, and each part of its path."""
    assert (await house.fetch(name, filename="stdout")).body == LINES


@pytest.mark.parametrize("name", ["serve", DEPLOYMENT[:8], "", f"{DEPLOYMENT}x"])
async def test_a_part_of_a_name_is_no_name(house: House, name: str) -> None:
    """Nothing is found by a piece of a component."""
    assert (await house.fetch(name, filename="stdout")).status == 404


async def test_no_filename(house: House) -> None:
    """Without a filename there is the fetcher's own text, and Mesos is not asked."""
    for path in (f"/fetch/{APP}", f"/fetch/{APP}?filename="):
        response = await house.begin(path)
        assert response.code == 400
    reply = await house.fetch(APP, filename="")
    assert reply.text == "Missing filename query parameter"
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["x-datahub-error"] == "request.missing"
    assert house.fake.masters[0].asked == []


@pytest.mark.parametrize(
    ("filename", "status", "text"),
    [
        ("nothing", 404, "Not found"),
        ("dir", 400, "Cannot download a directory."),
        ("/", 400, "Cannot download a directory."),
        ("../../../etc/passwd", 400, "filename '../../../etc/passwd' is outside of the sandbox"),
        ("a/../../b", 400, "filename 'a/../../b' is outside of the sandbox"),
    ],
)
async def test_wrong_filenames(house: House, filename: str, status: int, text: str) -> None:
    """What can't be fetched has its answer."""
    reply = await house.fetch(APP, filename=filename)
    assert (reply.status, reply.text) == (status, text)


async def test_a_link_that_leaves_the_sandbox(house: House) -> None:
    """Where a link leads out the agent refuses, and its folders are not told."""
    real = house.root / directory(APP, "c1").lstrip("/")
    (real / "out").symlink_to("/etc/passwd")
    reply = await house.fetch(APP, filename="out")
    assert (reply.status, reply.text) == (400, "filename is outside of the sandbox")


@pytest.mark.parametrize(
    ("filename", "data"), [("dir/x y&z", b"in a folder"), ("empty", b""), ("./dir//x y&z", b"in a folder")]
)
async def test_odd_filenames(house: House, filename: str, data: bytes) -> None:
    """Folders, blanks, ampersands and empty files are fetched."""
    reply = await house.fetch(APP, filename=filename)
    assert (reply.status, reply.body) == (200, data)


async def test_larger_than_the_limit(make: Any) -> None:
    """A file of exactly the limit is given; one of a byte more is not, in the fetcher's words."""
    house = make(one_task(), limit=1024)
    house.put(house.fake.agents[AGENT], directory(APP, "c1"), {"fits": bytes(1024), "large": bytes(1025)})
    assert (await house.fetch(APP, filename="fits")).body == bytes(1024)
    reply = await house.fetch(APP, filename="large")
    assert (reply.status, reply.text) == (400, "The requested file exceeds the allowed maximum length (1 KB)")
    reply = await house.fetch(APP, filename="large", tail=1)
    assert reply.status == 400
    assert (await house.fetch(APP, filename="large", headers={"Range": "bytes=1-"})).body == bytes(1024)


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=990-", 990, None), ("bytes=-10", -10, None), ("bytes=5-99999999", 5, None)],
)
async def test_ranges(house: House, header: str, first: int, last: int | None) -> None:
    """A range is 206 and says which part it is."""
    reply = await house.fetch(APP, filename="stdout", headers={"Range": header})
    wanted = LINES[first : None if last is None else last + 1]
    start = len(LINES) - 10 if first < 0 else first
    assert (reply.status, reply.body, reply.whole) == (206, wanted, True)
    assert reply.headers["content-range"] == f"bytes {start}-{start + len(wanted) - 1}/{len(LINES)}"


@pytest.mark.parametrize("header", ["bytes=0-1,4-5", "lines=1-2", "bytes=9-1", "bytes=-", "bytes=a-b"])
async def test_what_is_no_range_is_passed_over(house: House, header: str) -> None:
    """The whole file is given then (RFC 9110, 14.2)."""
    reply = await house.fetch(APP, filename="stdout", headers={"Range": header})
    assert (reply.status, reply.body) == (200, LINES)


async def test_range_behind_the_end(house: House) -> None:
    """It is 416 and tells the size."""
    reply = await house.fetch(APP, filename="stdout", headers={"Range": "bytes=999999-"})
    assert (reply.status, reply.headers["content-range"]) == (416, f"bytes */{len(LINES)}")


async def test_far_parts_are_read_in_pages(house: House) -> None:
    """Bytes far from the start come through JSON exactly as they are, and the file is not downloaded."""
    agent = house.fake.agents[AGENT]
    data = bytes(range(256)) * 20_000
    house.put(agent, directory(APP, "c1"), {"large": data})
    reply = await house.fetch(APP, filename="large", headers={"Range": "bytes=-150001"})
    assert (reply.status, reply.body) == (206, data[-150001:])
    assert not [each for each in agent.asked if each.path == "/files/download"]


@pytest.mark.parametrize("lines", [0, 1, 3, 1000, 5000])
async def test_tail(house: House, lines: int) -> None:
    """The last lines are given, and no more than there are."""
    wanted = b"".join(LINES.splitlines(keepends=True)[-lines:]) if lines else b""
    reply = await house.fetch(APP, filename="stdout", tail=lines)
    assert (reply.status, reply.body, reply.whole) == (200, wanted, True)


async def test_tail_of_a_file_without_a_last_newline(house: House) -> None:
    """What stands behind the last newline is a line."""
    data = b"x" * 70_000 + b"\n" + b"y" * 70_000 + b"\nlast"
    house.put(house.fake.agents[AGENT], directory(APP, "c1"), {"odd": data})
    assert (await house.fetch(APP, filename="odd", tail=1)).body == b"last"
    assert (await house.fetch(APP, filename="odd", tail=2)).body == b"y" * 70_000 + b"\nlast"
    assert (await house.fetch(APP, filename="odd", tail=3)).body == data


async def test_offset_and_length(house: House) -> None:
    """A part by offset is 200 and may be empty, so that one can ask for what has come since."""
    reply = await house.fetch(APP, filename="stdout", offset=7, length=6)
    assert (reply.status, reply.body) == (200, LINES[7:13])
    assert (reply.headers["x-datahub-offset"], reply.headers["x-datahub-size"]) == ("7", str(len(LINES)))
    reply = await house.fetch(APP, filename="stdout", offset=len(LINES) + 5)
    assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", "0")
    assert (await house.fetch(APP, filename="stdout", offset=-1)).status == 400


async def test_listing(house: House) -> None:
    """Who asks for JSON and names no file gets the sandbox's."""
    reply = await house.fetch(APP, headers={"Accept": "application/json"})
    items = {each["path"]: each for each in reply.json["items"]}
    assert sorted(items) == ["bytes", "dir", "empty", "page.html", "stdout"]
    assert (items["dir"]["kind"], items["stdout"]["kind"], items["stdout"]["size"]) == ("folder", "file", len(LINES))
    inner = await house.fetch(APP, folder="dir", headers={"Accept": "application/json"})
    assert [each["path"] for each in inner.json["items"]] == ["dir/x y&z"]
    missing = await house.fetch(APP, folder="none", headers={"Accept": "application/json"})
    assert missing.status == 404


async def test_head(house: House) -> None:
    """HEAD gives what GET gives, without the body."""
    head, get = [await house.fetch(APP, method=method, filename="stdout") for method in ("HEAD", "GET")]
    assert (head.status, head.body) == (200, b"")
    same = ("content-type", "content-length", "content-disposition", "accept-ranges", "x-datahub-task")
    assert {name: head.headers[name] for name in same} == {name: get.headers[name] for name in same}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_other_methods(house: House, method: str) -> None:
    """They are 405, and say what is possible."""
    reply = await house.fetch(APP, method=method, filename="stdout")
    assert reply.status == 405
    assert "GET" in reply.headers["allow"]


async def test_scope(house: House) -> None:
    """Who may read is asked for before anything else."""
    reply = await house.fetch(APP, filename="stdout", headers={"Authorization": "Bearer nobody"})
    assert reply.status == 401
    assert (await house.fetch(APP, filename="stdout", headers={"Authorization": "Bearer bob-token"})).status == 200
