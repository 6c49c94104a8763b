"""The whole hub and grid servers: real ones of GridFTP and XRootD, and an FTS server that is a process of its own."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen
from zlib import adler32

import pytest

from tests.gridftp import Authority, GridServer, need_grid
from tests.whole.daemon import ROOT, Daemon, crashing, free_port, until
from tests.whole.site import FILE, TREE, Site
from tests.whole.stager import Staging, report
from tests.xrootd import XrootdServer, need_xrootd

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

LARGE = 300_000_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give who signs all certificates here."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def grid(authority: Authority) -> Iterator[GridServer]:
    """Give a GridFTP server."""
    need_grid()
    server = GridServer(authority)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def proxy(authority: Authority) -> Path:
    """Give alice's proxy."""
    return authority.proxy("alice")


@pytest.fixture
def xrootd(authority: Authority) -> Iterator[XrootdServer]:
    """Give an XRootD server."""
    need_xrootd()
    server = XrootdServer(authority)
    server.start()
    yield server
    server.remove()


def sections(grid: GridServer, proxy: Path) -> dict[str, dict[str, Any]]:
    """Configure a hub that moves to the server."""
    return {
        "transfers.movers": {"gsiftp": "gfal:"},
        "transfers.mover_options.gsiftp": {"proxy": str(proxy), "ca": str(grid.authority.folder)},
    }


def contents(place: Path) -> dict[str, bytes]:
    """Give all files of a tree, or the only file."""
    if place.is_file():
        return {"": place.read_bytes()}
    return {str(each.relative_to(place)): each.read_bytes() for each in place.rglob("*") if each.is_file()}


def descendants(number: int) -> set[int]:
    """Give the processes that stem from one."""
    parents: dict[int, int] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            with suppress(OSError):
                parents[int(each.name)] = int((each / "stat").read_text().rpartition(")")[2].split()[1])
    found, last = {number}, 0
    while len(found) > last:
        last = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {number}


def test_products_reach_a_gridftp_server(site, grid, proxy):
    """Those of the archive, whole; the original's line is taken, and one to a scheme without a mover is not."""
    daemon = site.hub(sections=sections(grid, proxy))
    daemon.start()
    there = site.deliveries / "alice"
    jobs = [daemon.submit(product, grid.url(there)) for product in (FILE, TREE)]
    twins = [daemon.submit(FILE, grid.url(site.deliveries / "twins")) for _ in range(3)]
    for seen in daemon.await_final(jobs):
        assert seen["status"] == "SUCCESS", seen
        place = there / Path(seen["product_id"]).name
        assert contents(place) == contents(site.archive / seen["product_id"])
        assert seen["progress"]["done"] == sum(map(len, contents(place).values()))
        listed = daemon.call("GET", f"/transfers/{seen['job_id']}/files").json["items"]
        assert {each["path"]: each["checksums"] for each in listed} == {
            path or FILE: {"adler32": f"{adler32(data):08x}"} for path, data in contents(place).items()
        }
        assert {each["state"] for each in listed} == {"DELIVERED"}
    assert sorted(each.name for each in there.iterdir()) == [FILE, TREE]
    ends = sorted((seen["status"], seen["detailed_status"]) for seen in daemon.await_final(twins))
    assert [status for status, _ in ends] == ["ERROR", "ERROR", "SUCCESS"]
    assert all(f"/twins/{FILE} exists already (give overwrite=true" in told for _, told in ends[:2]), ends
    seed = daemon.post({"product_id": FILE, "destination_path": "gsiftp://ubuntu@localhost:1/home/ubuntu"})
    assert seed.status == 202
    assert "Connection refused" in daemon.await_retry(seed.json["job_id"])["detailed_status"]
    other = daemon.post({"product_id": FILE, "destination_path": "davs://localhost/d"})
    assert (other.status, "file://, gsiftp://" in other.json["msg"]) == (400, True)
    secret = daemon.post({"product_id": FILE, "destination_path": "gsiftp://me:secret@localhost/d"})
    assert (secret.status, "secret" in secret.text) == (400, False)
    daemon.stop()
    assert "secret" not in daemon.log


def test_products_reach_an_xrootd_server(site, authority, proxy, xrootd):
    """By its own protocol and by WebDAV; what had begun when the server was killed is delivered when it is back."""
    options = {"proxy": str(proxy), "ca": str(authority.folder)}
    daemon = site.hub(
        sections={
            "transfers.movers": {"root": "gfal:", "davs": "gfal:"},
            "transfers.mover_options.root": options,
            "transfers.mover_options.davs": options,
        }
    )
    daemon.start()
    there = xrootd.room(site.deliveries)
    jobs = [daemon.submit(TREE, xrootd.url(there / "a")), daemon.submit(FILE, xrootd.web_url(there / "b"))]
    for seen in daemon.await_final(jobs):
        assert seen["status"] == "SUCCESS", seen
    assert contents(there / "a" / TREE) == contents(site.archive / TREE)
    assert contents(there / "b" / FILE) == contents(site.archive / FILE)
    os.truncate(os.open(site.archive / "large", os.O_CREAT | os.O_WRONLY), LARGE)
    job = daemon.submit("large", xrootd.url(there / "c"))
    until(lambda: xrootd.largest() > LARGE // 10, "bytes arrive", 60)
    xrootd.kill()
    daemon.await_retry(job)
    assert not (there / "c" / "large").exists()
    os.truncate(site.archive / "large", 1000)
    xrootd.start()
    (seen,) = daemon.await_final([job])
    assert seen["status"] == "SUCCESS", seen
    assert contents(there / "c") == {"large": bytes(1000)}
    daemon.stop()


def test_what_a_stager_has_put_on_a_gridftp_server_goes_from_there(site, grid, proxy):
    """``gsiftp://{staged_to}{path}``, without any folder that the hub could read."""
    staging = Staging(site)
    daemon = staging.hub(sections=sections(grid, proxy), staged="")
    staging.start("mute")
    daemon.start()
    job = daemon.submit(TREE, grid.url(site.deliveries / "bob"))
    asked = staging.asked(job)
    host = f"localhost:{grid.port}"
    told = staging.report_of(asked, staged_to=host, path=str(site.archive / TREE), success="True")
    until(lambda: report(daemon, told).status == 200, "the report is taken")
    (seen,) = daemon.await_final([job])
    assert (seen["status"], seen["stager_hostname"]) == ("SUCCESS", host), seen
    assert contents(site.deliveries / "bob" / TREE) == contents(site.archive / TREE)
    staging.stop()


def test_children_die_with_the_hub(site, grid, proxy):
    """Killed while many files are on their way: no process is left, nothing has a final name; then it is delivered."""
    large = site.archive / "large"
    large.mkdir()
    for number in range(10):
        os.truncate(os.open(large / str(number), os.O_CREAT | os.O_WRONLY), LARGE)
    daemon = site.hub(sections=sections(grid, proxy))
    daemon.start()
    there = site.deliveries / "carol"
    job = daemon.submit("large", grid.url(there))
    until(lambda: there.exists() and any(there.glob(".datahub-*/0")), "bytes arrive", 60)
    children = descendants(daemon.pid)
    assert len(children) >= 2
    daemon.kill()
    until(lambda: not any(Path(f"/proc/{each}").exists() for each in children), "the children are gone")
    assert [each.name[:9] for each in there.iterdir()] == [".datahub-"]
    for number in range(10):
        os.truncate(large / str(number), 1000 + number)
    daemon.start()
    (seen,) = daemon.await_final([job])
    assert seen["status"] == "SUCCESS", seen
    assert [each.name for each in there.iterdir()] == ["large"]
    assert contents(there / "large") == contents(large)


class FtsProcess:
    """The fake FTS as a process."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.own = authority.issue("robot")
        self._process: subprocess.Popen[bytes] | None = None
        self._context = ssl.create_default_context(cafile=str(authority.pem))
        self._context.load_cert_chain(*map(str, self.own))

    def start(self) -> None:
        """Start it and wait until it answers."""
        certificate, key = self.authority.issue("server", server=True)
        command = [sys.executable, "-m", "tests.fakes.fts3", str(self.port), certificate, key, self.authority.pem]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen([str(each) for each in command], cwd=ROOT, env=environ)

        def answers() -> bool:
            with suppress(URLError, OSError):
                return bool(self.seen())
            return False

        until(answers, "the fake FTS answers", 30)

    def stop(self) -> None:
        """End it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def tell(self, what: str) -> None:
        """Tell it how to behave."""
        urlopen(Request(f"{self.url}/fake/{what}", method="PUT"), context=self._context, timeout=10).close()

    def seen(self) -> dict[str, Any]:
        """Give what it has done."""
        with urlopen(f"{self.url}/fake/seen", context=self._context, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@pytest.fixture
def fts(authority: Authority) -> Iterator[FtsProcess]:
    """Give an FTS server."""
    fts = FtsProcess(authority)
    fts.start()
    yield fts
    fts.stop()


def fts_hub(site: Site, fts: FtsProcess) -> Daemon:
    """Configure a hub that hands over to FTS."""
    certificate, key = fts.own
    options = {"certificate": str(certificate), "key": str(key), "ca": str(fts.authority.pem)}
    return site.hub(
        sections={
            "transfers.movers": {"gsiftp": f"fts+{fts.url}"},
            "transfers.mover_options.gsiftp": {**options, "source": "gsiftp://hub.example.org"},
        }
    )


def test_a_crash_after_fts_has_answered_copies_once(site, fts):
    """Killed before it could commit, and when it is back FTS has ended and forgotten the job: one copy, SUCCESS."""
    fts.tell("waits")
    daemon = fts_hub(site, fts)
    daemon.start(crashing("datahub.transfers.movers.fts:Fts.submit:after:1"))
    target = "gsiftp://there.example.org/d"
    job = daemon.submit(FILE, target)
    daemon.ended()
    assert len(fts.seen()["jobs"]) == 1
    fts.tell("purge")
    assert fts.seen()["jobs"] == {}
    daemon.start()
    (seen,) = daemon.await_final([job])
    assert seen["status"] == "SUCCESS", seen
    assert seen["fts_jobid"]
    assert seen["fts_details"]["server"] == fts.url
    assert [(place, len(jobs)) for place, jobs in fts.seen()["copied"].items()] == [(f"{target}/{FILE}", 1)]
    further = [daemon.submit(TREE, f"{target}/{number}") for number in range(5)]
    assert {each["status"] for each in daemon.await_final(further)} == {"SUCCESS"}
    assert {len(jobs) for jobs in fts.seen()["copied"].values()} == {1}
    assert site.rows("SELECT * FROM fts_job") == []
    daemon.stop()
