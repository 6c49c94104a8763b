"""Disks that are full, closed, read-only or broken: the truth in words, and nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from datahub.archive import Product
from datahub.errors import FinalFault, PassingFault
from datahub.transfers.movers.faults import destination_faults
from tests.files.rights import refused
from tests.files.trees import result_of

PRODUCT = Product("005", "005", Path("/archive/005"), is_directory=False, files=1, size=10)


async def test_a_disk_too_small(small_disk: Any) -> None:
    """What can't have room is not even begun: needed and free are told."""
    place = small_disk("size=1m")
    place.put("005", bytes(2_000_000))
    with pytest.raises(PassingFault, match=r"the disk is full: product '005' needs 2000000 bytes in 1 file, \d+ bytes"):
        await place.copy(await place.order())
    assert place.seen == []
    assert place.delivered() == []


async def test_a_disk_that_fills_up(small_disk: Any) -> None:
    """A disk that is full in the middle is freed of the part at once, and served when there is room again."""
    place = small_disk("size=1m")
    for number in range(300):
        place.put(f"005/{number}", b"each takes a block")
    order = await place.order()
    with pytest.raises(PassingFault, match="no space left on device: product '005' needs 5400 bytes in 300 files"):
        await place.copy(order)
    assert place.seen
    assert place.delivered() == []
    subprocess.run(["mount", "-o", "remount,size=10m", place.root.parent], check=True)
    await place.deliver(order)
    assert place.delivered() == ["005"]


async def test_a_disk_without_inodes(small_disk: Any) -> None:
    """The text says how many files are free, because bytes are."""
    place = small_disk("size=10m,nr_inodes=20")
    for number in range(30):
        place.put(f"005/{number}")
    with pytest.raises(PassingFault, match=r"in 30 files, \d+ bytes and \d+ files are free"):
        await place.copy(await place.order())
    assert place.delivered() == []


async def test_a_disk_that_is_read_only(small_disk: Any) -> None:
    """Read-only may pass, in whichever step it is found."""
    place = small_disk("size=10m")
    place.put("005")
    order = await place.order()
    delivery = await place.copy(order)
    subprocess.run(["mount", "-o", "remount,ro", place.root.parent], check=True)
    new = await place.order(to="new")
    for step in (place.copy(order), place.copy(new), place.mover.publish(order, delivery), place.mover.discard(order)):
        with pytest.raises(PassingFault, match="Read-only file system"):
            await step
    subprocess.run(["mount", "-o", "remount,rw", place.root.parent], check=True)
    await place.mover.publish(order, delivery)
    assert place.delivered() == ["005"]


async def test_a_source_on_another_file_system(small_disk: Any) -> None:
    """What is copied from one file system to another arrives as well."""
    place = small_disk("size=20m")
    data = os.urandom(5_000_000)
    place.put("005", data)
    await place.deliver(await place.order())
    assert (place.root / "alice" / "005").read_bytes() == data


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOENT, errno.ETIMEDOUT])
@pytest.mark.parametrize("call", ["fsync", "copy_file_range", "fchmod", "preadv"])
async def test_a_disk_that_fails(place: Any, monkeypatch: Any, call: str, number: int) -> None:
    """Whatever call a disk or network fails in, it may pass, and what was copied is removed."""
    place.put("005", b"data")
    (place.root / "alice").mkdir()
    order = await place.order()

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(PassingFault, match=os.strerror(number)):
        await place.copy(order)
    assert place.delivered() == []


async def test_a_disk_that_fails_altogether(place: Any, monkeypatch: Any) -> None:
    """When even removing fails, the first fault is told, and a later discard finds what is left."""
    place.put("005")
    order = await place.order()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fchmod", fail)
        patched.setattr(os, "unlink", fail)
        (place.root / "alice").mkdir()
        with pytest.raises(PassingFault, match="Input/output error"):
            await place.copy(order)
    assert len(place.delivered()) == 1
    await place.mover.discard(order)
    assert place.delivered() == []


def test_a_closed_folder(place: Any) -> None:
    """A folder that we may not write in is final: the text names the user and the folder."""
    place.put("005")
    closed = place.root / "alice"
    closed.mkdir()
    order = result_of(place.order())
    closed.chmod(0o555)
    fault = refused(lambda: result_of(place.copy(order)))
    assert isinstance(fault, FinalFault)
    assert "the user " in str(fault)
    assert f"may not write in '{closed}'" in str(fault)
    closed.chmod(0)
    fault = refused(lambda: result_of(place.copy(order)))
    assert isinstance(fault, FinalFault)
    closed.chmod(0o755)
    place.root.chmod(0o555)
    fault = refused(lambda: result_of(place.copy(result_of(place.order(to="new")))))
    assert isinstance(fault, FinalFault)
    assert f"'{place.root}/new'" in str(fault)


async def test_a_name_too_long(place: Any) -> None:
    """A folder's name that no file system takes is final."""
    place.put("005")
    with pytest.raises(FinalFault, match="too long"):
        await place.copy(await place.order(to="x" * 256))


@pytest.mark.parametrize(
    ("number", "fault", "text"),
    [
        (errno.ENOSPC, PassingFault, "needs 10 bytes in 1 file"),
        (errno.EDQUOT, PassingFault, "quota"),
        (errno.EIO, PassingFault, "Input/output error"),
        (errno.EACCES, FinalFault, "may not write in '/nowhere/x'"),
        (errno.EPERM, FinalFault, "may not write in '/nowhere/x'"),
        (errno.ENAMETOOLONG, FinalFault, "too long"),
        (errno.EFBIG, FinalFault, "no file so large"),
        (errno.EILSEQ, FinalFault, "takes no such name"),
        (errno.EEXIST, FinalFault, "the same there"),
    ],
)
def test_each_kind_of_refusal(number: int, fault: type[Exception], text: str) -> None:
    """Each has its words, also where the folder has gone meanwhile."""
    with pytest.raises(fault, match=text), destination_faults("/nowhere/x", PRODUCT):
        raise OSError(number, os.strerror(number))
