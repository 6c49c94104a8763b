"""An archive of real files: what is in it is found whole, and nothing outside of it ever."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from twisted.internet import reactor
from twisted.internet.defer import CancelledError

from datahub.archive import Entry, Product
from datahub.archive.local import LocalArchive
from datahub.errors import FinalFault, InvalidRequest, PassingFault, StartError
from datahub.kit.aio import start
from datahub.kit.threads import InlinePool, ReactorPool
from tests.files.rights import refused
from tests.files.trees import TREES, build, deep, flat, open_files, result_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The archive's folder."""
    (tmp_path / "archive").mkdir()
    return tmp_path / "archive"


@pytest.fixture
def archive(root: Path) -> LocalArchive:
    """The archive, working at once."""
    return LocalArchive(root, InlinePool())


def put(path: Path, content: bytes = b"") -> Path:
    """Make a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read(archive: LocalArchive, product: Product, entry: Entry) -> bytes:
    """Read a small file of a product."""
    with os.fdopen(archive.open(product, entry), "rb") as file:
        return file.read()


async def fault_of(archive: LocalArchive, product_id: str) -> str:
    """Give the text with which a product is refused for good."""
    with pytest.raises(FinalFault) as caught:
        await archive.locate(product_id)
    return str(caught.value)


async def test_a_file(archive: LocalArchive, root: Path) -> None:
    """A product may be a single file, anywhere below the root."""
    file = put(root / "2026" / "005", b"hello")
    product = await archive.locate("2026/005")
    assert product == Product("2026/005", "005", file, is_directory=False, files=1, size=5)
    [entry] = archive.walk(product)
    assert entry == Entry("", 5, file.stat().st_mtime_ns, file.stat().st_ino, file.stat().st_dev, is_directory=False)
    assert read(archive, product, entry) == b"hello"


async def test_a_tree(archive: LocalArchive, root: Path) -> None:
    """A product may be a folder: its files come in the order of their paths, empty folders too."""
    for name in ("a/z", "a.b", "a-b/x"):
        put(root / "p" / name, name.encode())
    (root / "p" / "b" / "empty").mkdir(parents=True)
    product = await archive.locate("p")
    assert (product.is_directory, product.files, product.size) == (True, 3, 11)
    entries = list(archive.walk(product))
    assert [each.path for each in entries] == ["a-b", "a-b/x", "a.b", "a", "a/z", "b", "b/empty"]
    assert [each.path for each in entries if each.is_directory] == ["a-b", "a", "b", "b/empty"]
    assert [read(archive, product, each) for each in entries if not each.is_directory] == [b"a-b/x", b"a.b", b"a/z"]


async def test_an_empty_tree(archive: LocalArchive, root: Path) -> None:
    """A folder with nothing in it is a product."""
    (root / "p").mkdir()
    product = await archive.locate("p")
    assert (product.files, product.size, list(archive.walk(product))) == (0, 0, [])


async def test_what_is_not_there(archive: LocalArchive, root: Path) -> None:
    """The text names the product; what lies below a file is not there either."""
    put(root / "file")
    assert await fault_of(archive, "005") == "product '005' is not in the archive"
    assert await fault_of(archive, "file/x") == "product 'file/x' is not in the archive"
    assert "too long" in await fault_of(archive, "x" * 256)
    assert "not in the archive" in await fault_of(archive, "x/" * 2500 + "x")


async def test_ids_that_escape(archive: LocalArchive) -> None:
    """An id that could lead out is refused before the disk is touched."""
    with pytest.raises(InvalidRequest):
        await archive.locate("../secret")


async def test_an_archive_that_is_away(tmp_path: Path) -> None:
    """A root that is not there may come back: it may be a mount."""
    with pytest.raises(PassingFault, match="is it mounted"):
        await LocalArchive(tmp_path / "away", InlinePool()).locate("005")


async def test_links_inside(archive: LocalArchive, root: Path) -> None:
    """The way to a product may go through links, and a link to a file is delivered as that file."""
    file = put(root / "store" / "real", b"data")
    (root / "by-year").symlink_to(root / "store")
    product = await archive.locate("by-year/real")
    assert (product.root, product.name) == (file, "real")
    (root / "p").mkdir()
    (root / "p" / "relative").symlink_to("../store/real")
    (root / "p" / "absolute").symlink_to(file)
    product = await archive.locate("p")
    assert (product.files, product.size) == (2, 8)
    assert [read(archive, product, each) for each in archive.walk(product)] == [b"data", b"data"]


async def test_the_root_may_be_a_link(tmp_path: Path, root: Path) -> None:
    """What counts is the real path of the root."""
    put(root / "p" / "x", b"1")
    (tmp_path / "link").symlink_to(root)
    archive = LocalArchive(f"file://{tmp_path}/link/", InlinePool())
    product = await archive.locate("p")
    assert product.root == root / "p"
    assert [read(archive, product, each) for each in archive.walk(product)] == [b"1"]


async def test_links_out(archive: LocalArchive, root: Path, tmp_path: Path) -> None:
    """No link leads out, also not to a folder whose name begins like the archive's."""
    secret = put(tmp_path / "archive-2" / "secret", b"key")
    (root / "file").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    (root / "p").mkdir()
    (root / "p" / "inner").symlink_to(secret)
    (root / "self").symlink_to(root)
    for product_id in ("file", "folder", "folder/secret", "self"):
        assert "out of the archive" in await fault_of(archive, product_id)
    text = await fault_of(archive, "p")
    assert "'p'" in text
    assert "'inner'" in text
    assert "out of the archive" in text


async def test_links_that_are_not_delivered(archive: LocalArchive, root: Path) -> None:
    """A link to a folder, to nothing or to itself: named, with what to do."""
    for product_id, target, reason in (
        ("to-folder", "../store", "a symbolic link to a folder"),
        ("to-nothing", "nothing", "a symbolic link to nothing"),
        ("to-itself", "link", "a symbolic link in a circle"),
    ):
        (root / "store").mkdir(exist_ok=True)
        (root / product_id).mkdir()
        (root / product_id / "link").symlink_to(target)
        text = await fault_of(archive, product_id)
        assert reason in text
        assert "'link'" in text
        assert "submit again" in text


def make_socket(path: Path) -> None:
    """Leave a socket's name behind; by its folder, because such an address is short."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


def make_device(path: Path) -> None:
    """Make another /dev/null."""
    try:
        os.mknod(path, 0o20666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make a device")


@pytest.mark.parametrize(
    ("make", "kind"), [(os.mkfifo, "a FIFO"), (make_socket, "a socket"), (make_device, "a device")]
)
async def test_what_is_no_file(archive: LocalArchive, root: Path, make: Callable[[Path], None], kind: str) -> None:
    """A FIFO, socket or device is refused at once, as a product, inside of one and behind a link: nothing hangs."""
    (root / "p").mkdir()
    make(root / "p" / "odd")
    (root / "q").mkdir()
    (root / "q" / "link").symlink_to("../p/odd")
    for product_id, name in (("p", "odd"), ("p/odd", "p/odd"), ("q", "link")):
        text = await fault_of(archive, product_id)
        assert f"is {kind}" in text
        assert f"{name!r}" in text


@pytest.mark.parametrize("name", ["file", "folder"])
def test_what_is_unreadable(archive: LocalArchive, root: Path, name: str) -> None:
    """A file or folder that is closed to us is found before anything is copied, and the text says to whom."""
    put(root / "p" / "file")
    (root / "p" / "folder").mkdir()
    (root / "p" / name).chmod(0)
    text = str(refused(lambda: result_of(archive.locate("p"))))
    assert f"product 'p': {name!r} can't be read by the user " in text
    text = str(refused(lambda: result_of(archive.locate(f"p/{name}"))))
    assert "can't be read by the user " in text
    assert refused(lambda: result_of(archive.locate("nothing"))).__class__ is FinalFault


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("call", ["scandir", "stat", "open"])
async def test_a_disk_that_fails(archive: LocalArchive, root: Path, monkeypatch: Any, call: str, number: int) -> None:
    """A fault of the disk or of the network may pass."""
    put(root / "p" / "x")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(PassingFault, match=os.strerror(number)):
        await archive.locate("p")


async def test_what_is_swapped_after_listing(archive: LocalArchive, root: Path, tmp_path: Path) -> None:
    """Between listing and opening, a file becomes a way out, a FIFO, or nothing: never read, never waited for."""
    secret = put(tmp_path / "secret", b"key")
    file = put(root / "p" / "a" / "x", b"data")
    product = await archive.locate("p")
    [_, entry] = archive.walk(product)
    file.unlink()
    with pytest.raises(PassingFault, match="vanished"):
        archive.open(product, entry)
    file.symlink_to(secret)
    with pytest.raises(FinalFault, match="out of the archive"):
        archive.open(product, entry)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(FinalFault, match="is a FIFO"):
        archive.open(product, entry)
    file.unlink()
    file.parent.rmdir()
    file.parent.symlink_to(tmp_path)
    put(tmp_path / "x", b"key")
    with pytest.raises(FinalFault, match="out of the archive"):
        archive.open(product, entry)


async def test_a_product_swapped_before_the_walk(archive: LocalArchive, root: Path, tmp_path: Path) -> None:
    """A located folder that becomes a link out of the archive, or goes, is not walked."""
    put(root / "p" / "x")
    product = await archive.locate("p")
    (root / "p").rename(tmp_path / "p")
    with pytest.raises(PassingFault, match="vanished"):
        list(archive.walk(product))
    (root / "p").symlink_to(tmp_path / "p")
    with pytest.raises(FinalFault, match="out of the archive"):
        list(archive.walk(product))


async def test_a_tree_that_changes_while_it_is_walked(archive: LocalArchive, root: Path) -> None:
    """A file that goes, or turns into a folder, between two looks may be right the next time."""
    put(root / "p" / "a")
    put(root / "p" / "b")
    product = await archive.locate("p")
    walk = archive.walk(product)
    assert next(walk).path == "a"
    (root / "p" / "b").unlink()
    (root / "p" / "b").mkdir()
    with pytest.raises(PassingFault, match="'b' changed"):
        next(walk)
    walk = archive.walk(product)
    assert next(walk).path == "a"
    (root / "p" / "b").rmdir()
    with pytest.raises(PassingFault, match="'b' vanished"):
        next(walk)


async def test_names_of_any_bytes(archive: LocalArchive, root: Path) -> None:
    """Names that are no text, hold a newline or have 255 bytes are products and parts of products."""
    names = ["\udcff\udcfe", "new\nline", "x" * 255, "ü" * 127, "back\\slash", " "]
    for name in names:
        put(root / name / name, b"1")
        product = await archive.locate(name)
        assert product.name == name
        assert [(each.path, read(archive, product, each)) for each in archive.walk(product)] == [(name, b"1")]


async def test_a_deep_tree(archive: LocalArchive, root: Path) -> None:
    """2,000 levels, ten times as long as a path may be, and what lies beside and below is read."""
    put(root / "other", b"far")
    with deep(root, "p", "d" * 20, 2000) as lowest:
        with os.fdopen(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=lowest), "wb") as file:
            file.write(b"deep")
        os.symlink(root / "other", "link", dir_fd=lowest)
        before = open_files()
        product = await archive.locate("p")
        assert (product.files, product.size) == (2, 7)
        entries = [each for each in archive.walk(product) if not each.is_directory]
        assert [read(archive, product, each) for each in entries] == [b"deep", b"far"]
        assert open_files() == before


async def test_a_walk_left_early_leaves_nothing_open(archive: LocalArchive, root: Path) -> None:
    """Whoever stops reading a list holds no descriptor."""
    put(root / "p" / "a" / "b" / "c")
    product = await archive.locate("p")
    before = open_files()
    walk = archive.walk(product)
    next(walk)
    assert open_files() > before
    del walk
    assert open_files() == before


async def test_a_cancelled_search_ends(root: Path, monkeypatch: Any) -> None:
    """Counting a large tree ends soon after nobody waits for it any more."""
    for number in range(50):
        put(root / "p" / str(number))
    pool = ReactorPool("test", 1, reactor)
    pool.start()
    archive = LocalArchive(root, pool)
    walk, seen = archive.walk, []

    def cancelling(product: Product) -> Iterator[Entry]:
        for entry in walk(product):
            seen.append(entry)
            if len(seen) == 1:
                reactor.callFromThread(searching.cancel)  # type: ignore[attr-defined]  # the module is the reactor
                while not stops[0].is_set():
                    pass
            yield entry

    stops: list[Any] = []
    counted = archive._counted

    def noting(product: Product, stop: Any) -> Product:
        stops.append(stop)
        return counted(product, stop)

    monkeypatch.setattr(archive, "_counted", noting)
    monkeypatch.setattr(archive, "walk", cancelling)
    searching = start(archive.locate("p"))
    try:
        with pytest.raises(CancelledError):
            await searching
        assert len(seen) == 1
    finally:
        await pool.stop()


@pytest.mark.parametrize("url", ["file://elsewhere/x", "relative", "file:relative", "file:///a?b"])
def test_what_is_no_archive(url: str) -> None:
    """A root that can't be one stops the start, naming the key."""
    with pytest.raises(StartError, match=r"archive\.url"):
        LocalArchive(url, InlinePool())


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_any_tree(tree: Any) -> None:
    """Every file of any tree is listed once, in the order of the paths' bytes, with its content."""
    with TemporaryDirectory() as folder:
        build(Path(folder, "p"), tree)
        archive = LocalArchive(folder, InlinePool())
        product = result_of(archive.locate("p"))
        found = {
            os.fsencode(each.path): read(archive, product, each)
            for each in archive.walk(product)
            if not each.is_directory
        }
    assert found == flat(tree)
    assert (product.files, product.size) == (len(found), sum(map(len, found.values())))
    assert list(found) == sorted(found)
