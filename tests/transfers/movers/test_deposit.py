"""What is delivered is what is in the archive, byte for byte, or nothing at all."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import pytest
from hypothesis import given, settings

from datahub.archive.local import LocalArchive
from datahub.errors import PassingFault
from datahub.files import Stopped, held, remove
from datahub.kit.threads import InlinePool
from datahub.transfers.movers import Order
from datahub.transfers.movers.deposit import Deposit, Modes
from datahub.transfers.movers.local import LocalMover
from tests.files.trees import TREES, build, deep, open_files, read, result_of

MANIFEST = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum"


def manifest_of(folder: Path) -> str:
    """Ask the shell for a tree's digest."""
    done = subprocess.run(["sh", "-c", MANIFEST], cwd=folder, capture_output=True, check=True, text=True)
    return done.stdout.split()[0]


@settings(max_examples=40, deadline=None)
@given(TREES)
def test_any_tree(tree: Any) -> None:
    """Any tree arrives as it is, empty files and folders too, and its digest is the shell's."""
    with TemporaryDirectory() as folder:
        top = Path(folder)
        (top / "deliveries").mkdir()
        (top / "archive").mkdir()
        build(top / "archive" / "p", tree)
        archive = LocalArchive(top / "archive", InlinePool())
        mover = LocalMover(top / "deliveries", InlinePool(), archive)
        product = result_of(archive.locate("p"))
        order = Order("t", "1", f"file://{top}/deliveries", False, None)
        seen: list[int] = []
        delivery = result_of(mover.copy(order, product, seen.append))
        result_of(mover.publish(order, delivery))
        assert read(top / "deliveries") == {b"p": tree}
        assert delivery.checksums == {"manifest-sha256": manifest_of(top / "deliveries" / "p")}


async def test_modes_and_times_of_a_tree(place: Any) -> None:
    """Files and folders have open modes whatever they had and whatever the umask, and the times they had."""
    for number, name in enumerate(("005/a/b/x", "005/y")):
        os.utime(place.put(name), ns=(0, number))
    (place.archive_root / "005" / "a" / "b").chmod(0o500)
    for number, name in enumerate(("005/a/b", "005/a", "005")):
        os.utime(place.archive_root / name, ns=(0, 100 + number))
    mask = os.umask(0o077)
    try:
        await place.deliver(await place.order())
    finally:
        os.umask(mask)
    found = {name: (place.root / "alice" / name).stat() for name in ("005", "005/a", "005/a/b", "005/a/b/x", "005/y")}
    assert [stat.S_IMODE(each.st_mode) for each in found.values()] == [0o755, 0o755, 0o755, 0o644, 0o644]
    assert [each.st_mtime_ns for each in found.values()] == [102, 101, 100, 0, 1]


async def test_everything_is_on_disk(place: Any, monkeypatch: Any) -> None:
    """Each file and each folder of a tree is synced before the copy is reported."""
    place.put("005/a/x")
    place.put("005/y")
    synced: set[int] = set()
    fsync = os.fsync

    def note(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr(os, "fsync", note)
    delivery = await place.copy(await place.order())
    top = place.root / "alice" / delivery.temporary
    for name in (".", "a", "a/x", "y"):
        assert (top / name).stat().st_ino in synced
    assert place.root.stat().st_ino in synced


async def test_links_arrive_as_files(place: Any) -> None:
    """A link to a file of the archive is that file at the destination."""
    place.put("other", b"linked")
    place.put("005/x")
    (place.archive_root / "005" / "link").symlink_to("../other")
    delivery = await place.deliver(await place.order())
    link = place.root / "alice" / "005" / "link"
    assert not link.is_symlink()
    assert link.read_bytes() == b"linked"
    assert delivery.files == 2
    assert delivery.checksums["manifest-sha256"] == manifest_of(place.root / "alice" / "005")


async def test_a_deep_tree(place: Any) -> None:
    """1,000 levels are delivered, published and removed, and no descriptor is left."""
    with deep(place.archive_root, "005", "d" * 9, 1000) as lowest:
        os.close(os.open("x", os.O_CREAT, dir_fd=lowest))
        before = open_files()
        await place.deliver(await place.order(to=""))
        order = await place.order(to="2")
        await place.copy(order)
        await place.mover.discard(order)
        assert place.delivered("2") == []
        assert open_files() == before
    count = "find deliveries/005 -type f | wc -c; find deliveries/005 -type d | wc -l"
    done = subprocess.run(["sh", "-c", count], cwd=place.root.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len("deliveries/005") + 10 * 1000 + len("/x\n")), "1001"]
    with held(os.open(place.root, os.O_RDONLY)) as root:
        remove("005", root)


async def test_a_big_file(place: Any) -> None:
    """A file over the bound of the small ones arrives whole, with its progress."""
    data = os.urandom(5 * 1024 * 1024 + 3)
    place.put("005", data)
    await place.deliver(await place.order())
    assert (place.root / "alice" / "005").read_bytes() == data
    assert sum(place.seen) == len(data)


async def test_progress_of_a_tree(place: Any) -> None:
    """The progress of a tree is that of all its files."""
    place.put("005/a", b"12345")
    place.put("005/b", b"678")
    await place.copy(await place.order())
    assert place.seen == [5, 3]


def append(path: Path) -> None:
    """Let a file grow."""
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    """Change a file's content, not its size."""
    path.write_bytes(b"x" * path.stat().st_size)


def swap(path: Path) -> None:
    """Put another file of the same size in place of it."""
    new = path.with_name("new")
    new.write_bytes(bytes(path.stat().st_size))
    new.replace(path)


CHANGES = pytest.mark.parametrize("change", [append, rewrite, lambda path: os.truncate(path, 1), Path.unlink, swap])


@pytest.mark.parametrize("name", ["005", "005/x"])
@pytest.mark.parametrize("size", [100, 12 * 1024 * 1024])
@CHANGES
async def test_a_file_that_changes_while_it_is_copied(place: Any, name: str, size: int, change: Any) -> None:
    """Whatever happens to the source meanwhile, nothing is delivered, nothing is left, and it is tried again."""
    source = place.put(name, bytes(size))
    os.utime(source, ns=(0, 1))
    order = await place.order()

    def meddle(count: int) -> None:
        if not place.seen:
            change(source)
        place.seen.append(count)

    with pytest.raises(PassingFault, match=r"product '005' changed while it was copied"):
        await place.mover.copy(order, place.products[order.attempt], meddle)
    assert place.seen
    assert place.delivered() == []


@CHANGES
async def test_a_file_that_changes_before_it_is_copied(place: Any, change: Any) -> None:
    """A file of a tree that is not what was listed any more is not delivered."""
    place.put("005/a")
    source = place.put("005/b")
    os.utime(source, ns=(0, 1))
    order = await place.order()
    walk = place.archive.walk

    def meddling(product: Any) -> Any:
        entries = list(walk(product))
        change(source)
        return iter(entries)

    place.archive.walk = meddling
    with pytest.raises(PassingFault, match=r"changed while it was copied|vanished"):
        await place.copy(order)
    assert place.delivered() == []


async def test_a_tree_that_grows_while_it_is_copied(place: Any) -> None:
    """A file that came after the count is a change, too."""
    place.put("005/a")
    order = await place.order()
    place.put("005/b")
    with pytest.raises(PassingFault, match="2 files of 8 bytes, not 1 of 4"):
        await place.copy(order)
    assert place.delivered() == []


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_5_gib_in_constant_memory(place: Any) -> None:
    """A file of 5 GiB, beyond 32 bits, takes no more memory than a small one."""
    size = 5 * 1024**3 + 1
    source = place.put("005", b"begin")
    with source.open("r+b") as file:
        file.truncate(size)
        file.seek(size - 3)
        file.write(b"end")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    delivery = await place.deliver(await place.order())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 32 * 1024
    target = place.root / "alice" / "005"
    assert subprocess.run(["cmp", source, target], check=False).returncode == 0
    assert (delivery.size, target.stat().st_size) == (size, size)
    target.unlink()


def test_the_folders_mode_follows_the_files() -> None:
    """Whoever may read may enter."""
    assert [Modes(mode).folder for mode in (0o644, 0o640, 0o600, 0o664)] == [0o755, 0o750, 0o700, 0o775]


async def test_what_a_failed_deposit_leaves_is_the_callers(place: Any) -> None:
    """A deposit itself tidies nothing: the mover removes the one name that it made."""
    place.put("005/a")
    product = await place.archive.locate("005")
    stop = Event()
    stop.set()
    folder = os.open(place.root, os.O_RDONLY)
    with pytest.raises(Stopped):
        Deposit(place.archive, product, Modes(0o644), stop, print).copy(folder, "temporary", None)
    os.close(folder)
    assert place.delivered("") == ["temporary"]
