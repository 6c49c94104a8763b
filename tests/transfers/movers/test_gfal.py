"""The mover ``gfal:`` against a real GridFTP server: what arrives is whole and verified, or nothing does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import adler32

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError
from twisted.internet.protocol import Factory, Protocol

from datahub.archive import Product
from datahub.errors import FinalFault, InvalidRequest, PassingFault
from datahub.kit.aio import start
from datahub.transfers.movers import Checksum, CopiedFile, DeliveryLost, Remote, carriers
from datahub.transfers.movers.addresses import check_folder, place_of
from datahub.transfers.movers.gfal import COMMAND
from datahub.transfers.movers.proxies import Papers
from tests.gridftp import Authority, GridServer, need_grid
from tests.transfers.movers.grid import Grid, content, contents, tree
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GridServer]:
    """Give a GridFTP server for all tests here."""
    need_grid()
    server = GridServer(Authority(tmp_path_factory.mktemp("grid")))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def proxy(server: GridServer) -> Path:
    """Give alice's proxy."""
    return server.authority.proxy("alice")


@pytest_twisted.async_yield_fixture()
async def grid(server, proxy, reactor, tmp_path):
    """Give the server with an archive beside it; no process is left."""
    grid = Grid(server.authority, server, proxy, reactor, tmp_path)
    yield grid
    for each in grid.movers:
        await each.stop()


async def test_a_file_arrives(grid):
    """Under its name, whole, with its checksum, its size told as progress; folders on the way are made."""
    data = content(3_000_000)
    grid.put("005", data)
    delivery = await grid.deliver("005", grid.order(to="al ice/ü/%"[:-2]))
    assert (grid.deliveries / "al ice" / "ü" / "005").read_bytes() == data
    assert delivery.checksums == {"adler32": f"{adler32(data):08x}"}
    assert (delivery.files, delivery.size, sum(grid.moved)) == (1, 3_000_000, 3_000_000)
    assert delivery.final == grid.server.url(grid.deliveries) + "/al%20ice/%C3%BC/005"
    assert not delivery.is_directory


@pytest.mark.slow
async def test_more_than_two_gib_arrive(grid):
    """A size that needs more than 31 bits, verified and told of in all its digits."""
    size = 2**31 + 12_345
    with grid.put("005").open("r+b") as file:
        file.truncate(size)
        file.seek(size - 4)
        file.write(b"end.")
    delivery = await grid.deliver("005")
    there = grid.deliveries / "alice" / "005"
    assert (there.stat().st_size, delivery.size, sum(grid.moved)) == (size, size, size)
    with there.open("rb") as file:
        assert file.read(4) == b"data"
        file.seek(size - 4)
        assert file.read() == b"end."
    there.unlink()


@pytest.mark.parametrize("files", [0, 40])
async def test_a_tree_arrives(grid, files):
    """With all its names and empty folders: few files one by one, many in bulk."""
    expected = tree(grid, files)
    delivery = await grid.deliver("tree")
    there = grid.deliveries / "alice" / "tree"
    assert contents(there) == expected
    assert (there / "empty").is_dir()
    assert grid.delivered() == ["tree"]
    assert (delivery.files, delivery.size) == (len(expected), sum(map(len, expected.values())))
    assert delivery.is_directory
    assert [each.path for each in grid.filed] == [path for path in sorted(expected, key=os.fsencode) for _ in range(2)]
    assert [each.checksum for each in grid.filed[::2]] == [None] * len(expected)
    assert {each.path: each for each in grid.filed[1::2]} == {
        path: CopiedFile(path, len(data), Checksum("adler32", f"{adler32(data):08x}"))
        for path, data in expected.items()
    }


async def test_what_is_on_another_host_goes_from_there(grid):
    """A file and folders, which nobody has counted, by third-party copies: in bulk, and one by one."""
    for number in range(12):
        grid.put(f"many/{number % 2}/{number}", content(number * 100))
    for name in ("h#x", "a b/[ü]", "c"):
        grid.put(f"few/{name}", content(len(name)))
    for name, files in (("many", 12), ("few", 3), ("few/c", 1)):
        path = grid.archive_root / name
        url = grid.server.url(path)
        remote = Remote("5", path.name, path, is_directory=False, files=0, size=0, url=url)
        delivery = await grid.deliver(remote)
        assert (delivery.files, delivery.is_directory) == (files, files > 1)
        there = grid.deliveries / "alice" / path.name
        for each in [path, *path.rglob("*")]:
            copied = there / each.relative_to(path)
            assert copied.is_dir() if each.is_dir() else copied.read_bytes() == each.read_bytes()
    assert grid.delivered() == ["c", "few", "many"]


async def test_what_is_not_there_can_not_be_moved(grid):
    """A stager's report was wrong: that is final."""
    remote = Remote(
        "5", "x", Path("/nowhere/x"), is_directory=False, files=0, size=0, url=grid.server.url("/nowhere/x")
    )
    with pytest.raises(FinalFault, match="the source is not there: gsiftp://localhost"):
        await grid.deliver(remote)


async def test_nothing_is_clobbered(grid):
    """What has the name stays, unless the order says overwrite; a folder is never replaced."""
    grid.put("005", b"new")
    there = grid.deliveries / "alice" / "005"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"old")
    with pytest.raises(FinalFault, match="005 exists already"):
        await grid.deliver("005")
    assert (grid.delivered(), there.read_bytes()) == (["005"], b"old")
    await grid.deliver("005", grid.order(overwrite=True))
    assert (grid.delivered(), there.read_bytes()) == (["005"], b"new")
    tree(grid, 0)
    await grid.deliver("tree")
    with pytest.raises(FinalFault, match="overwrite replaces only a file by a file"):
        await grid.deliver("tree", grid.order(overwrite=True))


@pytest.mark.parametrize("algorithm", ["adler32", "md5", "sha256"])
async def test_the_checksum_is_that_of_the_product(grid, algorithm):
    """The right one is told, a wrong one ends it with nothing left."""
    grid.put("005", b"data")
    known = {
        "adler32": "0400019b",
        "md5": "8d777f385d3dfec8815d20f7496026dc",
        "sha256": "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7",
    }
    right = Checksum(algorithm, known[algorithm])
    delivery = await grid.deliver("005", grid.order(checksum=right))
    assert delivery.checksums[algorithm] == right.value
    wrong = Checksum(algorithm, "0" * len(right.value))
    with pytest.raises(FinalFault, match=f"has the {algorithm} {right.value}, but 0"):
        await grid.deliver("005", grid.order(to="bob", checksum=wrong))
    assert grid.delivered("bob") == []


async def test_each_step_may_run_twice(grid):
    """Published twice is published; a copy that has gone is made again; leftovers are discarded."""
    grid.put("005", b"data")
    tree(grid, 0)
    for product in ("005", "tree"):
        order = grid.order()
        delivery = await grid.deliver(product, order)
        await grid.mover.publish(order, delivery)
        lost = await grid.mover.copy(grid.order(to="bob"), await grid.archive.locate(product), grid.moved.append)
        await grid.mover.discard(grid.order(to="bob"))
        await grid.mover.discard(grid.order(to="nowhere"))
        with pytest.raises(DeliveryLost, match="has gone: it is made again"):
            await grid.mover.publish(grid.order(to="bob"), lost)
        assert grid.delivered("bob") == []
    assert grid.delivered() == ["005", "tree"]


async def test_leftovers_beside_names_of_others(grid):
    """What cannot be read of a folder's names is somebody else's: ours are found and removed all the same."""
    grid.put("005", b"data")
    (grid.deliveries / "bob").mkdir(parents=True)
    (grid.deliveries / "bob" / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    await grid.mover.copy(grid.order(to="bob"), await grid.archive.locate("005"), grid.moved.append)
    assert len(grid.delivered("bob")) == 2
    await grid.mover.discard(grid.order(to="bob"))
    assert [os.fsencode(each) for each in grid.delivered("bob")] == [b"caf\xe9"]


async def test_foreign_files_are_not_taken_for_ours(grid):
    """The temporary copy has gone, and what has its name is of the same size, but another."""
    grid.put("005", b"data")
    order = grid.order()
    delivery = await grid.mover.copy(order, await grid.archive.locate("005"), grid.moved.append)
    await grid.mover.discard(order)
    (grid.deliveries / "alice" / "005").write_bytes(b"atad")
    with pytest.raises(DeliveryLost):
        await grid.mover.publish(order, delivery)


async def test_what_changes_meanwhile_is_not_delivered(grid):
    """The size is not what was counted: moved again later."""
    path = grid.put("005", content(1000))
    found = await grid.archive.locate("005")
    walk = grid.archive.walk

    def changed(product: Product) -> Any:
        entries = list(walk(product))
        path.write_bytes(b"short")
        return entries

    grid.archive.walk = changed
    with pytest.raises(PassingFault, match="changed while it was moved"):
        await grid.mover.copy(grid.order(), found, grid.moved.append)
    assert grid.delivered() == []


async def test_names_that_no_server_takes(grid):
    """Neither a line feed in a command of FTP nor what is no text: said before anything is moved."""
    grid.put("tree/a\nb")
    with pytest.raises(FinalFault, match=r"the name 'a\\nb' can't be moved"):
        await grid.deliver("tree")
    grid.put("a\nb")
    with pytest.raises(FinalFault, match="can't be that of a file on another host"):
        await grid.deliver("a\nb")
    grid.put("x" * 250)
    with pytest.raises(FinalFault, match="too long for that server"):
        await grid.deliver("x" * 250, grid.order(to="y" * 300))
    assert grid.delivered() == []


async def test_credentials_that_are_not_let_in(grid):
    """Somebody else's proxy: final, in the server's words; one that has expired is waited for."""
    grid.put("005")
    grid.mover = grid.moving(Papers(proxy=grid.authority.proxy("mallory", name="m"), ca=grid.authority.folder))
    with pytest.raises(FinalFault, match="the server does not let the hub in"):
        await grid.deliver("005")
    late = grid.authority.proxy("alice", seconds=60, began=-3600, name="late")
    grid.mover = grid.moving(Papers(proxy=late, ca=grid.authority.folder))
    with pytest.raises(PassingFault, match=r"late.pem have expired at 20.*: renew them"):
        await grid.deliver("005")
    late.write_bytes(grid.proxy.read_bytes())
    await grid.deliver("005")
    assert grid.delivered() == ["005"]


async def test_a_certificate_and_its_key(grid):
    """No proxy is needed."""
    grid.put("005")
    certificate, key = grid.authority.issue("alice")
    grid.mover = grid.moving(Papers(certificate, key, ca=grid.authority.folder))
    await grid.deliver("005")
    assert grid.delivered() == ["005"]


async def test_a_server_that_is_killed(grid):
    """In the middle of a file: nothing has the final name; when the server is back it is moved again."""
    big = grid.put("005")
    os.truncate(big, 500_000_000)
    order = grid.order()
    copying = start(grid.mover.copy(order, await grid.archive.locate("005"), grid.moved.append))
    under_way = grid.deliveries / "alice" / f".datahub-f7d2-{order.attempt}"
    await until(lambda: under_way.exists() and under_way.stat().st_size > 10_000_000, "bytes arrive", 60)
    grid.server.kill()
    with pytest.raises(PassingFault):
        await copying
    assert grid.delivered() == [under_way.name]
    with pytest.raises(PassingFault, match="Connection refused"):
        await grid.mover.discard(order)
    grid.server.start()
    big.write_bytes(b"small")
    await grid.mover.discard(order)
    await grid.deliver("005")
    assert grid.delivered() == ["005"]


async def test_a_copy_that_is_stopped(grid):
    """When it is cancelled the process is gone, and with it what it has started."""
    big = grid.put("005")
    os.truncate(big, 500_000_000)
    order = grid.order()
    copying = start(grid.mover.copy(order, await grid.archive.locate("005"), grid.moved.append))
    under_way = grid.deliveries / "alice" / f".datahub-f7d2-{order.attempt}"
    await until(under_way.exists, "bytes arrive", 60)
    (carrier,) = grid.movers[0]._all
    number = carrier.transport.pid
    copying.cancel()
    with pytest.raises(CancelledError):
        await copying
    assert not Path(f"/proc/{number}").exists()
    await grid.mover.discard(order)
    assert grid.delivered() == []


async def test_one_process_serves_many(grid):
    """One after the other; with new credentials there is a new one."""
    seen = set()
    papers = grid.home / "proxy.pem"
    papers.write_bytes(grid.proxy.read_bytes())
    papers.chmod(0o600)
    grid.mover = grid.moving(Papers(proxy=papers, ca=grid.authority.folder))

    async def move(name: str) -> None:
        grid.put(name)
        await grid.deliver(name)
        seen.update(each.transport.pid for each in grid.movers[1]._all if each.alive)

    await move("1")
    await move("2")
    assert len(seen) == 1
    os.utime(papers, (1, 1))
    await move("3")
    assert len(seen) == 2


async def test_what_arrives_damaged_is_not_delivered(grid):
    """A byte is another one than at the source, though the server has taken all of them without a word."""
    big = grid.put("005")
    os.truncate(big, 500_000_000)
    order = grid.order()
    copying = start(grid.mover.copy(order, await grid.archive.locate("005"), grid.moved.append, grid.filed.append))
    under_way = grid.deliveries / "alice" / f".datahub-f7d2-{order.attempt}"
    await until(lambda: under_way.exists() and under_way.stat().st_size > 1_000_000, "bytes arrive", 60)
    with under_way.open("r+b") as file:
        file.write(b"x")
    with pytest.raises(PassingFault, match="'005' arrived damaged: the adler32 is"):
        await copying
    assert grid.filed == [CopiedFile("005", 500_000_000)]
    assert grid.delivered() == []


async def test_a_server_that_hangs(grid, reactor, monkeypatch):
    """It takes the connection and says nothing: the process is killed, and nothing is left that waits."""
    monkeypatch.setattr(carriers, "PATIENCE", 1.0)
    listening = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    grid.put("005")
    order = replace(grid.order(), destination=f"gsiftp://localhost:{listening.getHost().port}/d")
    with pytest.raises(PassingFault, match="did not get on within 1 s"):
        await grid.deliver("005", order)
    assert not grid.movers[0]._all
    await listening.stopListening()


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import sys; sys.exit(3)", "ended unexpectedly"),
        ("print('hello', flush=True); input()", "spoke nonsense"),
        ("print('x' * 200000, end='', flush=True); input()", "spoke without end"),
    ],
)
async def test_a_process_that_fails(grid, program, told):
    """Whatever it does, the transfer is tried again by another one."""
    grid.movers[0]._command = [COMMAND[0], "-c", f"input(); {program}"]
    grid.put("005")
    with pytest.raises(PassingFault, match=told):
        await grid.deliver("005")


async def test_a_host_without_gfal2(grid):
    """The packages are named; when they are installed it goes on."""
    grid.put("005")
    command = grid.movers[0]._command
    # Without its site-packages Python finds no gfal2.
    grid.movers[0]._command = [command[0], "-S", *command[1:]]
    with pytest.raises(PassingFault, match="install the Debian packages python3-gfal2,"):
        await grid.deliver("005")
    grid.movers[0]._command = ["/nowhere/python3"]
    with pytest.raises(PassingFault, match="the program /nowhere/python3 is not on this host"):
        await grid.deliver("005")


@pytest.mark.parametrize(
    "destination",
    [
        "gsiftp:///folder",
        "gsiftp://host",
        "gsiftp://host:port/d",
        "gsiftp://user:hush@host/d",
        "gsiftp://host/a/../b",
        "gsiftp://host/.datahub-x/b",
        "gsiftp://host/a%0Ab",
        "gsiftp://host/a%zz",
        "gsiftp://host/a?b",
        "gsiftp://host/%FF",
        "gsiftp://a b@host/d",
    ],
)
def test_destinations_that_can_not_be(destination):
    """Refused when they are submitted, in the original's words, and no password is repeated."""
    with pytest.raises(InvalidRequest, match="destination_path must be a URL specifying a GridFTP server") as refusal:
        check_folder(destination)
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize("destination", ["gsiftp://ubuntu@host/home/ubuntu", "gsiftp://host:2811/", "davs://h/a%20b/"])
def test_destinations_that_can_be(destination):
    """The original's own line among them."""
    check_folder(destination)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gsiftp://host/d", "gsiftp://bob@HOST:2811//d/"),
        ("davs://host/a%20b", "davs://host:443/a b"),
        ("root://host//d", "root://host:1094/d"),
    ],
)
def test_one_place_has_one_name(one, other):
    """However it is written."""
    assert place_of(one, "005") == place_of(other, "005")
    assert place_of(one, "005") != place_of(one, "006")
