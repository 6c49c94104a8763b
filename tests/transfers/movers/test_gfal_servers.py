"""The mover ``gfal:`` against real WebDAV and XRootD servers: what arrives is whole and verified, or nothing does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import adler32

import pytest
import pytest_twisted

from datahub.errors import FinalFault, InvalidRequest, PassingFault
from datahub.kit.aio import start
from datahub.transfers.movers import DeliveryLost, Remote
from datahub.transfers.movers.addresses import check_folder
from datahub.transfers.movers.gfal import COMMAND
from datahub.transfers.movers.proxies import Papers
from tests.gridftp import Authority, GridServer, Peer, need_grid
from tests.transfers.movers.grid import Grid, Server, content, contents
from tests.waiting import until
from tests.webdav import DavServer, need_webdav
from tests.xrootd import XrootdServer, need_xrootd

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

KINDS = ["nginx", "xrootd", "xrootd by webdav"]
ODD = ["p%20q", "ü/a b#", "ü/'[&+;=~*\"\\"]
LARGE = 200_000_000


@dataclass
class ByWebdav:
    """An XRootD server by its other protocol."""

    server: XrootdServer

    def room(self, home: Path) -> Path:
        return self.server.room(home)

    def url(self, path: Path | str) -> str:
        return self.server.web_url(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give who signs all certificates here."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def proxy(authority: Authority) -> Path:
    """Give alice's proxy."""
    return authority.proxy("alice")


@pytest.fixture(scope="module")
def papers(authority: Authority) -> Papers:
    """Give alice's certificate and key: nginx takes no proxies."""
    return Papers(*authority.issue("alice"), ca=authority.folder)


@pytest.fixture(scope="module")
def nginx(authority: Authority) -> Iterator[DavServer]:
    """Give a WebDAV server that knows no checksums."""
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
def simple(authority: Authority) -> Iterator[XrootdServer]:
    """Give an XRootD server that knows no checksums."""
    need_xrootd()
    server = XrootdServer(authority, checksums=False)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def gridftp(authority: Authority) -> Iterator[GridServer]:
    """Give a GridFTP server."""
    need_grid()
    server = GridServer(authority)
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Go through all servers."""
    return str(request.param)


@pytest.fixture
def peer(kind: str, request: pytest.FixtureRequest) -> Peer:
    """Give the server's process."""
    peer: Peer = request.getfixturevalue(kind.partition(" ")[0])
    return peer


@pytest_twisted.async_yield_fixture()
async def grid(kind, peer, authority, proxy, papers, reactor, tmp_path):
    """Give the server with an archive beside it; no process is left."""
    server: Server = ByWebdav(peer) if kind == "xrootd by webdav" else peer
    grid = Grid(authority, server, proxy, reactor, tmp_path, papers if kind == "nginx" else None)
    yield grid
    for each in grid.movers:
        await each.stop()


async def test_a_file_arrives(grid):
    """Whole, with its checksum and its size as progress; folders on the way are made; its like is not clobbered."""
    data = content(3_000_000)
    grid.put("005", data)
    delivery = await grid.deliver("005", grid.order(to="a/b"))
    assert (grid.deliveries / "a" / "b" / "005").read_bytes() == data
    assert delivery.checksums == {"adler32": f"{adler32(data):08x}"}
    assert (delivery.files, delivery.size, sum(grid.moved)) == (1, 3_000_000, 3_000_000)
    grid.put("005", b"new")
    with pytest.raises(FinalFault, match="exists already"):
        await grid.deliver("005", grid.order(to="a/b"))
    assert contents(grid.deliveries) == {"a/b/005": data}
    await grid.deliver("005", grid.order(to="a/b", overwrite=True))
    assert contents(grid.deliveries) == {"a/b/005": b"new"}


async def test_names_that_need_care(grid, kind):
    """They arrive as they are; where a server gets them wrong that is said, and nothing is left of it."""
    grid.put("0#5 ü", b"data")
    order = grid.order(to="al ice/ü")
    if kind == "xrootd by webdav":
        with pytest.raises(FinalFault, match="is a name that this server gets wrong when it renames"):
            await grid.deliver("0#5 ü", order)
        assert contents(grid.deliveries.parent) == {}
        assert list(grid.deliveries.parent.rglob("*%*")) == []
    else:
        await grid.deliver("0#5 ü", order)
        assert contents(grid.deliveries) == {"al ice/ü/0#5 ü": b"data"}


@pytest.mark.parametrize("kind", ["nginx"])
async def test_a_question_mark(grid):
    """XRootD cuts names there, however it is written: refused before anything is moved, or submitted."""
    grid.put("a?b", b"data")
    grid.put("tree/a?b")
    for product in ("a?b", "tree"):
        with pytest.raises(FinalFault, match=r"'a\?b' has a '\?', where XRootD servers cut it off: rename it"):
            await grid.deliver(product)
    with pytest.raises(InvalidRequest, match=r"has a '\?' in a name, where XRootD servers cut it off"):
        check_folder(grid.server.url(grid.deliveries / "a%3Fb"))
    assert grid.delivered() == []


async def test_a_tree_arrives(grid):
    """With all its names and empty folders; it is never replaced; published twice is published."""
    expected = {name: content(len(name)) for name in ODD}
    for name, data in expected.items():
        grid.put(f"tree/{name}", data)
    (grid.archive_root / "tree" / "empty").mkdir()
    order = grid.order()
    delivery = await grid.deliver("tree", order)
    there = grid.deliveries / "alice" / "tree"
    assert contents(there) == expected
    assert (there / "empty").is_dir()
    assert grid.delivered() == ["tree"]
    assert (delivery.files, delivery.size) == (len(expected), sum(map(len, expected.values())))
    await grid.mover.publish(order, delivery)
    assert await grid.mover.is_published(order, delivery)
    with pytest.raises(FinalFault, match="overwrite replaces only a file by a file"):
        await grid.deliver("tree", grid.order(overwrite=True))
    assert contents(grid.deliveries / "alice") == {f"tree/{name}": data for name, data in expected.items()}


async def test_what_was_begun_is_discarded(grid):
    """A tree with all that is in it; who comes to publish it then makes it again."""
    for name in ("a b", "ü/%20", "ü/.hidden"):
        grid.put(f"tree/{name}")
    lost = await grid.mover.copy(grid.order(), await grid.archive.locate("tree"), grid.moved.append)
    assert len(list(grid.deliveries.glob("alice/*/*/.hidden"))) == 1
    await grid.mover.discard(grid.order())
    await grid.mover.discard(grid.order(to="nowhere"))
    assert grid.delivered() == []
    with pytest.raises(DeliveryLost, match="has gone: it is made again"):
        await grid.mover.publish(grid.order(), lost)


async def test_who_is_not_let_in(grid, kind):
    """Somebody else's certificate: final; nothing of it is there."""
    grid.put("005")
    proxy = grid.authority.proxy("mallory", name="mallory-proxy")
    certificate = Papers(proxy.with_name("mallory.pem"), proxy.with_name("mallory.key"), ca=grid.authority.folder)
    grid.mover = grid.moving(certificate if kind == "nginx" else Papers(proxy=proxy, ca=grid.authority.folder))
    with pytest.raises(FinalFault, match="may not be accessed with the hub's credentials"):
        await grid.deliver("005")
    assert grid.delivered() == []


async def test_a_server_that_is_killed(grid, peer):
    """In the middle of a file: nothing has the final name; when the server is back it is moved again."""
    big = grid.put("005")
    os.truncate(big, LARGE)
    order = grid.order()
    copying = start(grid.mover.copy(order, await grid.archive.locate("005"), grid.moved.append))
    await until(lambda: peer.largest() > LARGE // 10, "bytes arrive", 60)
    peer.kill()
    with pytest.raises(PassingFault):
        await copying
    assert "005" not in grid.delivered()
    peer.start()
    big.write_bytes(b"small")
    await grid.mover.discard(order)
    await grid.deliver("005")
    assert contents(grid.deliveries) == {"alice/005": b"small"}


async def test_a_server_that_tells_a_wrong_checksum(authority, papers, nginx, reactor, tmp_path):
    """What it says counts: the file is taken for damaged, and has not its name."""
    grid = Grid(authority, nginx, tmp_path, reactor, tmp_path, papers)
    grid.put("005")
    with pytest.raises(PassingFault, match="arrived damaged: the adler32 is 00000001, it should be 0400019b"):
        await grid.deliver("005", grid.order(to="liar"))
    assert grid.delivered("liar") == []
    await grid.movers[0].stop()


async def test_what_arrives_damaged_without_checksums(authority, papers, nginx, reactor, tmp_path):
    """A server that knows none is read back: a byte is another one than here."""
    grid = Grid(authority, nginx, tmp_path, reactor, tmp_path, papers)
    os.truncate(grid.put("005"), LARGE)
    order = grid.order()
    copying = start(grid.mover.copy(order, await grid.archive.locate("005"), grid.moved.append))
    under_way = grid.deliveries / "alice" / f"datahub-under-way-f7d2-{order.attempt}"
    await until(under_way.exists, "all bytes have arrived", 60)
    with under_way.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(PassingFault, match="'005' arrived damaged"):
        await copying
    assert grid.delivered() == []
    await grid.movers[0].stop()


@pytest.mark.parametrize("webdav", [False, True])
async def test_xrootd_without_checksums(authority, proxy, simple, reactor, tmp_path, webdav):
    """It has other words for it than most: read back all the same."""
    grid = Grid(authority, ByWebdav(simple) if webdav else simple, proxy, reactor, tmp_path)
    grid.put("005", content(10_000))
    await grid.deliver("005")
    assert contents(grid.deliveries) == {"alice/005": content(10_000)}
    await grid.movers[0].stop()


async def test_from_one_webdav_server_to_another(authority, proxy, xrootd, simple, reactor, tmp_path):
    """The one fetches from the other, with a token that the hub has got for it."""
    grid = Grid(authority, ByWebdav(simple), proxy, reactor, tmp_path)
    source = xrootd.room(tmp_path) / "tree"
    (source / "sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        (source / name).write_bytes(content(len(name) * 1000))
    xrootd.give(source)
    remote = Remote("5", "tree", source, is_directory=False, files=0, size=0, url=xrootd.web_url(source))
    delivery = await grid.deliver(remote)
    await grid.movers[0].stop()
    assert contents(grid.deliveries / "alice" / "tree") == contents(source)
    assert (delivery.files, delivery.is_directory) == (2, True)
    assert simple.log().count("TPC_PullRequest: event=TRANSFER_SUCCESS") == 2


@pytest.mark.parametrize("kind", ["nginx", "xrootd"])
async def test_from_gridftp(grid, gridftp):
    """What a stager has put on a GridFTP server passes through here, as no two kinds of servers talk to each other."""
    source = grid.home / "005"
    source.write_bytes(content(3000))
    await grid.deliver(Remote("5", "005", source, is_directory=False, files=0, size=0, url=gridftp.url(source)))
    assert contents(grid.deliveries) == {"alice/005": content(3000)}


async def test_a_token(authority, nginx, reactor, tmp_path):
    """Shown in place of a certificate."""
    grid = Grid(authority, nginx, tmp_path, reactor, tmp_path, Papers(ca=authority.folder))
    grid.put("005")
    with pytest.raises(FinalFault, match="may not be accessed with the hub's credentials"):
        await grid.deliver("005")
    grid.mover = grid.moving(Papers(ca=authority.folder), "of-alice")
    await grid.deliver("005")
    assert grid.delivered() == ["005"]
    for each in grid.movers:
        await each.stop()


async def test_a_token_that_is_renewed(authority, nginx, reactor, tmp_path):
    """The file is read again when it was replaced, though a process is logged in with what was in it before."""
    token = tmp_path / "token"
    token.write_text("of-alice\n")
    grid = Grid(authority, nginx, tmp_path, reactor, tmp_path, Papers(ca=authority.folder, token_file=token))
    grid.put("005")
    grid.put("006")
    await grid.deliver("005")
    (tmp_path / "next").write_text("of-nobody\n")
    (tmp_path / "next").replace(token)
    with pytest.raises(FinalFault, match="may not be accessed with the hub's credentials"):
        await grid.deliver("006")
    token.write_text("of-alice\n")
    await grid.deliver("006")
    assert grid.delivered() == ["005", "006"]
    for each in grid.movers:
        await each.stop()


RENAME = """
import os
from datahub.transfers.grid.server import FaultError, Grid, Line
try:
    old, new = sys.argv[1] + "/new", sys.argv[1] + "/old"
    Grid(Line(os.dup(1))).rename(old, new, folder=False, replace=sys.argv[2] == "True")
except FaultError as fault:
    print(fault.number, fault)
"""


@pytest.mark.parametrize("replace", [False, True])
def test_a_webdav_server_looks_itself_that_nothing_is_replaced(papers, nginx, tmp_path, replace):
    """Between our look and our rename somebody else may have come."""
    room = nginx.room(tmp_path)
    (room / "old").write_bytes(b"old")
    (room / "new").write_bytes(b"new")
    program = f"import sys; sys.path.append(sys.argv.pop(1))\n{RENAME}"
    command = [*COMMAND[:3], program, COMMAND[4], nginx.url(room), str(replace)]
    found = subprocess.run(
        command, env=papers.environment(os.environ, None), capture_output=True, check=True, timeout=60, text=True
    )
    assert (room / "old").read_bytes() == (b"new" if replace else b"old")
    assert found.stdout.startswith("" if replace else "17 davs://"), found
