"""The mover ``gfal:`` and servers in trouble: each attempt ends in time, and nothing partial has a final name.

When the server is well again the transfer succeeds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from datahub.errors import PassingFault
from datahub.kit.aio import start
from datahub.transfers.movers import carriers
from datahub.transfers.movers.gfal import COMMAND
from datahub.transfers.movers.proxies import Papers
from tests.gridftp import Authority, GridServer, need_grid
from tests.transfers.movers.grid import Grid, content, contents
from tests.transfers.movers.liar import Liar
from tests.transfers.movers.relays import Behind, Relay
from tests.waiting import until
from tests.webdav import DavServer, need_webdav
from tests.xrootd import XrootdServer, need_xrootd

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

HASTY = "server.PATIENCE = copying.PATIENCE = {0}; server.LEAST_TIME = 6"
"""The limits of a child, in seconds, so that nobody waits for minutes."""
PATIENCE = 60.0
LARGE = 300_000_000


def child(change: str) -> list[str]:
    """Give the command of a child that is changed before it obeys."""
    path = "import sys; sys.path.append(sys.argv.pop(1))"
    parts = "from datahub.transfers.grid import carrier, copying, server"
    return [*COMMAND[:3], f"{path}\n{parts}\n{change}\ncarrier.main()", *COMMAND[4:]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give who signs all certificates here."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def gridftp(authority: Authority) -> Iterator[GridServer]:
    """Give a GridFTP server."""
    need_grid()
    server = GridServer(authority)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def nginx(authority: Authority) -> Iterator[DavServer]:
    """Give a WebDAV server."""
    need_webdav()
    server = DavServer(authority)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def xrootd(authority: Authority) -> Iterator[XrootdServer]:
    """Give an XRootD server."""
    need_xrootd()
    server = XrootdServer(authority)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def proxy(authority: Authority) -> Path:
    """Give alice's proxy."""
    return authority.proxy("alice")


@pytest_twisted.async_yield_fixture()
async def grid(gridftp, proxy, reactor, tmp_path):
    """Give the GridFTP server with an archive beside it; no process is left."""
    grid = Grid(gridftp.authority, gridftp, proxy, reactor, tmp_path)
    yield grid
    for each in grid.movers:
        await each.stop()


def size_of(peer, grid):
    """Give the size of the file that is under way."""
    if isinstance(peer, GridServer):
        return max((each.stat().st_size for each in grid.deliveries.rglob("*") if each.is_file()), default=0)
    return peer.largest()


def hurry(grid, monkeypatch, change, patience=PATIENCE):
    """Change the children of the mover that the grid has, and how patient it is with them."""
    monkeypatch.setattr(carriers, "PATIENCE", patience)
    grid.movers[-1]._command = child(change)


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_a_server_in_trouble_amid_many_files(grid, monkeypatch, trouble):
    """Some have arrived whole, one in part, when the server is killed or freezes."""
    hurry(grid, monkeypatch, HASTY.format(3))
    for number in range(8):
        grid.put(f"tree/0{number}", content(1000 + number))
    large = [grid.put(f"tree/1{number}") for number in range(6)]
    for each in large:
        os.truncate(each, LARGE)
    order = grid.order()
    copying = start(grid.mover.copy(order, await grid.archive.locate("tree"), grid.moved.append))
    under_way = grid.deliveries / "alice" / f".datahub-f7d2-{order.attempt}"
    third = under_way / "12"
    await until(lambda: third.exists() and third.stat().st_size > 1_000_000, "some files arrive", 60)
    grid.server.kill() if trouble == "killed" else grid.server.freeze()
    with pytest.raises(PassingFault):
        await copying
    assert grid.delivered() == [under_way.name]
    assert not grid.movers[0]._all
    grid.server.start() if trouble == "killed" else grid.server.thaw()
    for each in large:
        each.write_bytes(b"small")
    grid.mover = grid.moving(Papers(proxy=grid.proxy, ca=grid.authority.folder))
    await grid.mover.discard(order)
    await grid.deliver("tree")
    assert grid.delivered() == ["tree"]
    assert contents(grid.deliveries / "alice" / "tree") == contents(grid.archive_root / "tree")


@pytest.fixture(params=["gridftp", "nginx", "xrootd"])
def peer(request: pytest.FixtureRequest) -> GridServer | DavServer | XrootdServer:
    """Go through all servers."""
    found: GridServer | DavServer | XrootdServer = request.getfixturevalue(request.param)
    return found


async def test_a_server_that_freezes(peer, authority, proxy, reactor, tmp_path, monkeypatch):
    """In the middle of a file: the process is killed when nothing has come for its time."""
    certificate, key = authority.issue("alice")
    papers = Papers(certificate, key, ca=authority.folder) if isinstance(peer, DavServer) else None
    grid = Grid(authority, peer, proxy, reactor, tmp_path, papers)
    large = grid.put("005")
    os.truncate(large, LARGE)
    order = grid.order()
    copying = start(grid.mover.copy(order, await grid.archive.locate("005"), grid.moved.append))
    await until(lambda: size_of(peer, grid) > LARGE // 10, "bytes arrive", 60)
    peer.freeze()
    (process,) = grid.movers[0]._all
    monkeypatch.setattr(carriers, "PATIENCE", 2.0)
    process._be_patient(2.0)
    with pytest.raises(PassingFault, match="did not get on within 2 s"):
        await copying
    monkeypatch.undo()
    assert not grid.movers[0]._all
    peer.thaw()
    assert "005" not in grid.delivered()
    large.write_bytes(b"small")
    grid.mover = grid.moving(grid.mover._papers)
    await grid.mover.discard(order)
    await grid.deliver("005")
    assert contents(grid.deliveries) == {"alice/005": b"small"}
    await grid.movers[1].stop()


ILL = [("gridftp", "greets")]
ILL += [(name, manners) for name in ("gridftp", "nginx", "xrootd") for manners in ("resets", "drips", "babbles")]


@pytest.mark.parametrize(("peer", "manners"), ILL, indirect=["peer"])
async def test_a_peer_without_manners(peer, manners, authority, proxy, reactor, tmp_path, monkeypatch):
    """It resets, drips a byte a second, talks nonsense or greets without end, until it is what it should be."""
    relay = Relay(reactor, peer.port)
    certificate, key = authority.issue("alice")
    papers = Papers(certificate, key, ca=authority.folder) if isinstance(peer, DavServer) else None
    grid = Grid(authority, Behind(relay, peer), proxy, reactor, tmp_path, papers)
    hurry(grid, monkeypatch, HASTY.format(2), 6.0)
    grid.put("005", content(10_000))
    relay.manners = manners
    with pytest.raises(PassingFault):
        await grid.deliver("005")
    assert not grid.movers[0]._all
    assert manners in relay.met
    assert contents(grid.deliveries) == {}
    relay.manners = "good"
    grid.mover = grid.moving(grid.mover._papers)
    await grid.deliver("005")
    assert contents(grid.deliveries) == {"alice/005": content(10_000)}
    await grid.movers[1].stop()
    await relay.stop()


@pytest.mark.slow
async def test_a_peer_that_sips(nginx, authority, proxy, reactor, tmp_path, monkeypatch):
    """It takes in a large file so slowly that hours would pass: it gets on, and all the same its time ends."""
    relay = Relay(reactor, nginx.port)
    certificate, key = authority.issue("alice")
    papers = Papers(certificate, key, ca=authority.folder)
    grid = Grid(authority, Behind(relay, nginx), proxy, reactor, tmp_path, papers)
    # gfal2 tells every five seconds how it gets on.
    hurry(grid, monkeypatch, "server.SLOWEST_COPY = 100_000_000; server.LEAST_TIME = 14", 16.0)
    os.truncate(grid.put("005"), LARGE)
    relay.manners = "sips"
    with pytest.raises(PassingFault):
        await grid.deliver("005")
    assert 0 < sum(grid.moved) < LARGE
    assert not grid.movers[0]._all
    assert "005" not in grid.delivered()
    await relay.stop()


LIES = {
    "halves": "'005' arrived damaged: the adler32 is",
    "forgets": "'005' was taken by the server, and is not there",
    "behind": "holds more than 10000 bytes",
    "drips": "timeout|too slowly|did not get on",
    "heads": "the destination: |did not get on",
}


@pytest.mark.parametrize(("lie", "told"), LIES.items(), ids=LIES)
async def test_a_server_that_lies(lie, told, authority, proxy, reactor, tmp_path, monkeypatch):
    """It says that it has taken the file, and has not, or gives it back as it pleases, until it does as it says."""
    liar = Liar(authority, reactor, tmp_path)
    certificate, key = authority.issue("alice")
    grid = Grid(authority, liar, proxy, reactor, tmp_path, Papers(certificate, key, ca=authority.folder))
    hurry(grid, monkeypatch, HASTY.format(5))
    data = content(10_000)
    grid.put("005", data)
    liar.lie = lie
    with pytest.raises(PassingFault, match=told):
        await grid.deliver("005")
    assert not grid.movers[0]._all
    final = f"{grid.deliveries}/alice/005"
    assert final not in liar.files
    liar.lie = ""
    grid.mover = grid.moving(grid.mover._papers)
    await grid.deliver("005")
    assert liar.files == {final: data}
    await grid.movers[1].stop()
    await liar.stop()


LOST = """
rename = server.Grid.rename
def lost(*values, **names):
    rename(*values, **names)
    raise server.FaultError("the old name: No such file", "destination", 2)
server.Grid.rename = lost
"""


async def test_a_rename_whose_answer_is_lost(grid, monkeypatch):
    """What asks again hears that nothing has the old name: a file and a folder are found under the new one."""
    hurry(grid, monkeypatch, LOST)
    grid.put("005")
    grid.put("tree/1")
    for product in ("005", "tree"):
        await grid.deliver(product)
    assert contents(grid.deliveries) == {"alice/005": b"data", "alice/tree/1": b"data"}


async def test_a_rename_that_is_not_done(grid, monkeypatch):
    """Nothing is taken for ours that only has the name."""
    hurry(grid, monkeypatch, LOST.replace("    rename(*values, **names)\n", "").replace(", 2)", ", 110)"))
    grid.put("005")
    with pytest.raises(PassingFault, match="the old name: No such file"):
        await grid.deliver("005")
    assert "005" not in grid.delivered()


async def test_a_folder_whose_list_has_no_end(grid, monkeypatch):
    """A server may give names for ever: nobody waits for the last one."""
    grid.put("005")
    (grid.deliveries / "alice").mkdir(parents=True)
    (grid.deliveries / "alice" / "x").write_bytes(b"")
    hurry(grid, monkeypatch, "server.LEAST_TIME = -1")
    with pytest.raises(PassingFault, match="alice is listed too slowly, or has no end: 0 names so far"):
        await grid.mover.discard(grid.order())


async def test_files_that_go_too_slowly_together(grid, monkeypatch):
    """Each keeps to its own time; what all of them may take is less than the sum of that."""
    for number in range(3):
        grid.put(f"tree/{number}")
    hurry(grid, monkeypatch, "copying.time_for = lambda size, files=1: -1")
    with pytest.raises(PassingFault, match="3 files of 12 bytes together are moved too slowly"):
        await grid.deliver("tree")
    assert grid.delivered() == []
