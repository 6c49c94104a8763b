"""The local mover: what is delivered, where, and what a crash at any point leaves."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError

from datahub.errors import FinalFault, InvalidRequest, PassingFault
from datahub.files import Checksum, renaming
from datahub.kit.aio import start
from datahub.kit.threads import InlinePool, ReactorPool
from datahub.transfers.movers import DeliveryLost, Order
from datahub.transfers.movers.local import LocalMover
from tests.files.trees import names_in

KINDS = pytest.mark.parametrize("kind", ["file", "folder"])


def put_product(place: Any, kind: str, content: bytes = b"data") -> None:
    """Put the product 005 into the archive, a file or a folder with one."""
    place.put("005" if kind == "file" else "005/x", content)


def content(place: Any, kind: str) -> bytes:
    """Read what was delivered of product 005."""
    root: Path = place.root
    return (root / "alice" / ("005" if kind == "file" else "005/x")).read_bytes()


async def test_a_file_is_delivered(place: Any) -> None:
    """A file arrives under its own name, with its time and an open mode, and nothing else is left."""
    source = place.put("2026/005", b"hello")
    source.chmod(0o600)
    os.utime(source, ns=(1, 1_600_000_000_123_456_789))
    mask = os.umask(0o077)
    try:
        delivery = await place.deliver(await place.order("2026/005", to="alice/new"))
    finally:
        os.umask(mask)
    found = (place.root / "alice" / "new" / "005").stat()
    assert place.delivered("alice/new") == ["005"]
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o644, 1_600_000_000_123_456_789)
    assert stat.S_IMODE((place.root / "alice").stat().st_mode) == 0o755
    assert (delivery.device, delivery.inode) == (found.st_dev, found.st_ino)
    assert (delivery.files, delivery.size) == (1, 5)
    assert delivery.final == f"file://{place.root}/alice/new/005"
    assert delivery.checksums == {"sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}
    assert place.seen == [5]


async def test_the_root_itself_is_a_destination(place: Any) -> None:
    """A product may lie directly in the allowed folder."""
    place.put("005")
    await place.deliver(await place.order(to=""))
    assert place.delivered("") == ["005"]


@KINDS
async def test_nothing_has_its_final_name_before_it_is_published(place: Any, kind: str) -> None:
    """Until then only a temporary name of the attempt is there."""
    put_product(place, kind)
    order = await place.order()
    delivery = await place.copy(order)
    assert place.delivered() == [delivery.temporary] == [f".datahub-{order.transfer}-{order.attempt}"]


@KINDS
async def test_names_as_long_as_can_be(place: Any, kind: str) -> None:
    """A name of 255 bytes, or of no known characters, is no trouble for the temporary name or the record."""
    for name in ("x" * 255, "\udcff\n"):
        place.put(name if kind == "file" else f"{name}/{name}")
        delivery = await place.deliver(await place.order(name))
        assert name in place.delivered()
        assert delivery.final.isascii()
        assert delivery.temporary.isascii()


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        ("file:///elsewhere", "outside"),
        ("file://{root}-2/alice", "outside"),
        ("file://{root}/../x", "component"),
        ("file://{root}/%2e%2e/x", "component"),
        ("file://{root}/a%2F..%2Fx", "component"),
        ("file://{root}/a/./b", "component"),
        ("file://{root}/a%00b", "NUL"),
        ("file://elsewhere{root}/a", "elsewhere"),
        ("file://{root}/a?b=c", "%3F"),
        ("file://{root}/a#b", "%23"),
        ("gsiftp://{root}/a", "form"),
        ("file://{root}/.datahub-1-1/a", ".datahub-"),
        ("", "form"),
    ],
)
async def test_destinations_that_can_never_be(place: Any, destination: str, reason: str) -> None:
    """What leads out of the allowed folder is refused at once: field, value, and the folder that is allowed."""
    url = destination.replace("{root}", str(place.root))
    with pytest.raises(InvalidRequest) as caught:
        place.mover.check(url)
    assert caught.value.field == "destination_path"
    for part in (reason, f"destination_path {url!r}", f"at or below file://{place.root}"):
        assert part in str(caught.value)
    place.put("005")
    order = await place.order()
    with pytest.raises(FinalFault, match=reason):
        await place.copy(Order(order.transfer, order.attempt, url, False, None))


def test_destinations_that_can_be(place: Any) -> None:
    """The allowed folder and whatever lies below it, there or not, is fine."""
    for destination in ("", "/", "/alice", "//alice///x/", "/a%20b%FF", "/...", "/ü"):
        place.mover.check(f"file://{place.root}{destination}")
        place.mover.check(f"file://localhost{place.root}{destination}")


@pytest.mark.parametrize("linked", ["alice", "alice/deep"])
async def test_no_link_leads_out(place: Any, tmp_path: Path, linked: str) -> None:
    """A symbolic link in the deliveries is never gone through, by no step."""
    (tmp_path / "outside").mkdir()
    (place.root / linked).parent.mkdir(exist_ok=True)
    (place.root / linked).symlink_to(tmp_path / "outside")
    place.put("005")
    order = await place.order(to="alice/deep/folder")
    with pytest.raises(FinalFault, match="symbolic link") as caught:
        await place.copy(order)
    assert f"{place.root}/{linked}'" in str(caught.value)
    (tmp_path / "outside" / f".datahub-{order.transfer}-1").touch()
    await place.mover.discard(order)
    assert names_in(tmp_path / "outside") == [f".datahub-{order.transfer}-1"]


async def test_a_file_in_the_way(place: Any) -> None:
    """A destination that is a file, not a folder, is told so."""
    (place.root / "alice").touch()
    place.put("005")
    with pytest.raises(FinalFault, match="is a file or a symbolic link"):
        await place.copy(await place.order())


async def test_a_root_that_is_away(place: Any) -> None:
    """The allowed folder may be a mount that comes back: it is waited for, and never made."""
    put_product(place, "file")
    order = await place.order()
    delivery = await place.copy(order)
    place.root.rename(place.root.with_name("away"))
    for step in (place.copy(order), place.mover.publish(order, delivery), place.mover.discard(order)):
        with pytest.raises(PassingFault, match="deliveries is not there: is it mounted"):
            await step
    assert not place.root.exists()
    place.root.with_name("away").rename(place.root)
    await place.mover.publish(order, delivery)
    assert place.delivered() == ["005"]


@KINDS
async def test_nothing_is_clobbered(place: Any, kind: str) -> None:
    """What has the final name keeps it, whether it was there before the copy or came meanwhile."""
    put_product(place, kind)
    order = await place.order()
    delivery = await place.copy(order)
    (place.root / "alice" / "005").write_bytes(b"mine")
    with pytest.raises(FinalFault, match=r"exists already \(give overwrite=true, or another destination\)"):
        await place.mover.publish(order, delivery)
    with pytest.raises(FinalFault, match="exists already"):
        await place.copy(await place.order())
    assert (place.root / "alice" / "005").read_bytes() == b"mine"


async def test_overwriting(place: Any) -> None:
    """A file replaces a file if the order says so, and again after a crash."""
    place.put("005", b"new")
    (place.root / "alice").mkdir()
    (place.root / "alice" / "005").write_bytes(b"old")
    order = await place.order(overwrite=True)
    delivery = await place.copy(order)
    assert (place.root / "alice" / "005").read_bytes() == b"old"
    for _ in range(2):
        await place.mover.publish(order, delivery)
        assert (place.root / "alice" / "005").read_bytes() == b"new"
    assert place.delivered() == ["005"]


@pytest.mark.parametrize(
    ("kind", "there"), [("file", "folder"), ("folder", "folder"), ("folder", "file"), ("file", "link")]
)
async def test_what_is_never_replaced(place: Any, kind: str, there: str) -> None:
    """Overwrite replaces no folder and no link, and nothing by a folder."""
    put_product(place, kind)
    order = await place.order(overwrite=True)
    delivery = await place.copy(order)
    final = place.root / "alice" / "005"
    {"file": final.touch, "folder": final.mkdir, "link": lambda: final.symlink_to("x")}[there]()
    for step in (place.mover.publish(order, delivery), place.copy(order)):
        with pytest.raises(FinalFault, match="only a file by a file"):
            await step
    assert (
        stat.S_IFMT(final.lstat().st_mode)
        == {"file": stat.S_IFREG, "folder": stat.S_IFDIR, "link": stat.S_IFLNK}[there]
    )


@KINDS
async def test_publishing_again(place: Any, kind: str) -> None:
    """A crash after publishing is harmless: the next call finds its own work."""
    put_product(place, kind)
    order = await place.order()
    delivery = await place.deliver(order)
    await place.mover.publish(order, delivery)
    assert place.delivered() == ["005"]
    assert content(place, kind) == b"data"


async def test_a_crash_between_link_and_unlink(place: Any) -> None:
    """A file under both names is ours: the temporary name goes, the final one stays."""
    place.put("005")
    order = await place.order()
    delivery = await place.copy(order)
    os.link(place.root / "alice" / delivery.temporary, place.root / "alice" / "005")
    await place.mover.publish(order, delivery)
    assert place.delivered() == ["005"]
    assert (place.root / "alice" / "005").stat().st_nlink == 1


async def test_two_that_publish_one_delivery(place: Any, monkeypatch: Any) -> None:
    """A hub that is late finds, in the very moment, that the other one has linked: both have succeeded."""
    place.put("005")
    order = await place.order()
    delivery = await place.copy(order)
    link = os.link

    def link_twice(*names: Any, **options: Any) -> None:
        link(*names, **options)
        link(*names, **options)

    monkeypatch.setattr(os, "link", link_twice)
    await place.mover.publish(order, delivery)
    assert place.delivered() == ["005"]


@KINDS
async def test_a_late_attempt(place: Any, kind: str) -> None:
    """An attempt that is published after another one of the same transfer changes nothing."""
    put_product(place, kind)
    early = await place.order(transfer="t")
    late = await place.order(transfer="t")
    early_delivery, late_delivery = await place.copy(early), await place.copy(late)
    await place.mover.publish(late, late_delivery)
    with pytest.raises(FinalFault, match="exists already"):
        await place.mover.publish(early, early_delivery)
    assert (place.root / "alice" / "005").stat().st_ino == late_delivery.inode
    await place.mover.discard(late)
    assert place.delivered() == ["005"]
    await place.mover.publish(late, late_delivery)


@KINDS
async def test_an_attempt_copied_twice(place: Any, kind: str) -> None:
    """What an attempt that crashed left under its own name is made anew."""
    put_product(place, kind, b"much longer")
    order = await place.order()
    await place.copy(order)
    put_product(place, kind, b"short")
    place.products[order.attempt] = await place.archive.locate("005")
    delivery = await place.deliver(order)
    assert place.delivered() == ["005"]
    assert content(place, kind) == b"short"
    assert delivery.size == 5


@KINDS
async def test_a_copy_that_has_gone(place: Any, kind: str) -> None:
    """When neither name is ours any more the copy is made again; a foreign one under the temporary name is spared."""
    put_product(place, kind)
    order = await place.order()
    delivery = await place.copy(order)
    temporary = place.root / "alice" / delivery.temporary
    temporary.rename(temporary.with_name("taken"))
    with pytest.raises(DeliveryLost, match="has gone"):
        await place.mover.publish(order, delivery)
    temporary.write_bytes(b"foreign")
    with pytest.raises(DeliveryLost, match="has gone"):
        await place.mover.publish(order, delivery)
    assert place.delivered() == [delivery.temporary, "taken"]
    shutil.rmtree(place.root / "alice")
    with pytest.raises(DeliveryLost, match="has gone"):
        await place.mover.publish(order, delivery)


async def test_a_copy_that_was_cut(place: Any) -> None:
    """A file of the same inode but another size is not what was verified."""
    place.put("005")
    order = await place.order()
    delivery = await place.copy(order)
    os.truncate(place.root / "alice" / delivery.temporary, 1)
    with pytest.raises(DeliveryLost, match="has gone"):
        await place.mover.publish(order, delivery)
    assert place.delivered() == [delivery.temporary]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.parametrize("kernel", [True, False])
async def test_without_hard_links(place: Any, monkeypatch: Any, number: int, kernel: bool) -> None:
    """A file system without links is served by a rename that takes no name, and so after a crash too."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    if not kernel:
        monkeypatch.setattr(renaming, "_kernel", None)
    place.put("005")
    order, other = await place.order(), await place.order()
    delivery, second = await place.copy(order), await place.copy(other)
    for _ in range(2):
        await place.mover.publish(order, delivery)
    with pytest.raises(FinalFault, match="exists already"):
        await place.mover.publish(other, second)
    await place.mover.discard(other)
    assert place.delivered() == ["005"]
    assert (place.root / "alice" / "005").stat().st_ino == delivery.inode


@KINDS
async def test_discarding(place: Any, kind: str, tmp_path: Path) -> None:
    """All temporaries of the transfer go, of whatever attempt; others' and what links point to stay; again is fine."""
    put_product(place, kind)
    first, second = await place.order(transfer="t"), await place.order(transfer="t")
    other = await place.order(transfer="t2")
    for order in (first, second, other):
        await place.copy(order)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (place.root / "alice" / ".datahub-t-link").symlink_to(tmp_path / "kept")
    for _ in range(2):
        await place.mover.discard(first)
        assert place.delivered() == [f".datahub-t2-{other.attempt}"]
    assert names_in(tmp_path / "kept") == ["file"]
    await place.mover.discard(await place.order(to="nobody/there"))


@KINDS
async def test_a_product_that_looks_like_a_temporary(place: Any, kind: str) -> None:
    """A product whose name could be swept away with the temporaries is refused."""
    place.put(".datahub-x" if kind == "file" else ".datahub-x/y")
    with pytest.raises(FinalFault, match="rename it"):
        await place.copy(await place.order(".datahub-x"))


@pytest.mark.parametrize(
    ("algorithm", "right"),
    [
        ("adler32", "062C0215"),
        ("md5", "5d41402abc4b2a76b9719d911017c592"),
        ("sha256", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
    ],
)
async def test_checksums(place: Any, algorithm: str, right: str) -> None:
    """The asked checksum is found and reported; a wrong one is final, with what was expected and found."""
    place.put("005", b"hello")
    delivery = await place.copy(await place.order(checksum=Checksum(algorithm, right), to="right"))
    assert delivery.checksums[algorithm] == right.lower()
    assert "sha256" in delivery.checksums
    wrong = "0" * len(right)
    with pytest.raises(FinalFault) as caught:
        await place.copy(await place.order(checksum=Checksum(algorithm, wrong), to="wrong"))
    for part in ("'005'", algorithm, right.lower(), wrong):
        assert part in str(caught.value)
    assert place.delivered("wrong") == []


async def test_a_checksum_of_a_folder(place: Any) -> None:
    """A folder has no checksum of that kind, and the text says so."""
    place.put("005/x")
    with pytest.raises(FinalFault, match="is a folder, and a checksum is that of a single file"):
        await place.copy(await place.order(checksum=Checksum("md5", "0" * 32)))


@KINDS
async def test_a_cancelled_copy(place: Any, kind: str) -> None:
    """Who sees the copy cancelled knows that its thread has ended and that nothing is left."""
    put_product(place, kind, b"")
    os.truncate(place.archive_root / ("005" if kind == "file" else "005/x"), 512 * 1024 * 1024)
    pool = ReactorPool("test", 2, reactor)
    pool.start()
    place.mover = LocalMover(place.root, pool, place.archive)
    order = await place.order()

    def cancel_first(count: int) -> None:
        place.seen.append(count)
        if len(place.seen) == 1:
            reactor.callFromThread(copying.cancel)  # type: ignore[attr-defined]  # the module is the reactor

    copying = start(place.mover.copy(order, place.products[order.attempt], cancel_first))
    try:
        with pytest.raises(CancelledError):
            await copying
        seen = len(place.seen)
        assert place.delivered() == []
        assert sum(place.seen) < 512 * 1024 * 1024
    finally:
        await pool.stop()
    assert len(place.seen) == seen


async def test_a_copy_cancelled_while_it_waits_for_a_thread(place: Any) -> None:
    """Work that was cancelled before it began does nothing."""
    place.put("005")
    order = await place.order()
    pool = ReactorPool("test", 2, reactor)
    place.mover = LocalMover(place.root, pool, place.archive)
    copying = start(place.copy(order))
    copying.cancel()
    pool.start()
    try:
        with pytest.raises(CancelledError):
            await copying
    finally:
        await pool.stop()
    assert place.delivered("") == []


async def test_other_modes(place: Any) -> None:
    """The mode of files can be set, and folders can be entered by those who may read."""
    place.put("005/x")
    place.mover = LocalMover(place.root, InlinePool(), place.archive, mode=0o640)
    await place.deliver(await place.order())
    modes = [stat.S_IMODE((place.root / name).stat().st_mode) for name in ("alice", "alice/005", "alice/005/x")]
    assert modes == [0o750, 0o750, 0o640]


async def test_a_thousand_small_ones_take_one_thread_each_step(place: Any) -> None:
    """A small product takes one hop to a thread for copying and one for publishing."""
    hops: list[object] = []

    class Counting(InlinePool):
        async def run(self, work: Any, *args: Any, **kwargs: Any) -> Any:
            hops.append(work)
            return work(*args, **kwargs)

    place.put("005/a/b")
    place.put("005/c")
    order = await place.order()
    place.mover = LocalMover(place.root, Counting(), place.archive)
    await place.deliver(order)
    assert len(hops) == 2


async def test_a_product_of_another_size_than_was_staged(place: Any) -> None:
    """A product that has other files than it had when located is not delivered half."""
    place.put("005/a")
    order = await place.order()
    place.products[order.attempt] = replace(place.products[order.attempt], files=2, size=8)
    with pytest.raises(PassingFault, match="1 file of 4 bytes, not 2 of 8"):
        await place.copy(order)
    assert place.delivered() == []


@KINDS
async def test_a_file_system_that_was_mounted_anew(place: Any, kind: str) -> None:
    """Its number has changed since the copy was made: the content tells that it is ours, under either name."""
    put_product(place, kind)
    order = await place.order()
    delivery = await place.copy(order)
    elsewhere = replace_device(delivery)
    assert not await place.mover.is_published(order, elsewhere)
    await place.mover.publish(order, elsewhere)
    assert await place.mover.is_published(order, elsewhere)
    assert await place.mover.is_published(order, delivery)
    await place.mover.publish(order, elsewhere)
    assert (place.delivered(), content(place, kind)) == (["005"], b"data")


@KINDS
async def test_another_content_on_a_file_system_that_was_mounted_anew(place: Any, kind: str) -> None:
    """What is not what was copied is not taken for it: as large, but another."""
    put_product(place, kind)
    order = await place.order()
    delivery = replace_device(await place.copy(order))
    temporary = place.root / "alice" / delivery.temporary
    (temporary if kind == "file" else temporary / "x").write_bytes(b"xxxx")
    with pytest.raises(DeliveryLost):
        await place.mover.publish(order, delivery)


def replace_device(delivery: Any) -> Any:
    """The same delivery on a device of another number."""
    return msgspec.structs.replace(delivery, device=delivery.device + 1, inode=delivery.inode + 1)
