"""Copies are whole and verified, small or big, by the kernel or without it."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event, active_count
from typing import Any

import pytest

from datahub.files import Mismatch, Shrunk, Stopped, copy_bytes, copy_verified, copying, held

MIB = 1024 * 1024


def nothing(_: int) -> None:
    """Take no notice of progress."""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """An open source, empty, and an open target."""
    flags = os.O_RDWR | os.O_CREAT
    with held(os.open(tmp_path / "source", flags)) as source, held(os.open(tmp_path / "target", flags)) as target:
        yield source, target


def refusing(number: int) -> Any:
    """A kernel or file system that can't copy."""

    def refuse(*_: int) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("size", [0, 1, MIB, 4 * MIB, 4 * MIB + 1, 20 * MIB + 7])
def test_a_copy_is_the_same(files: tuple[int, int], size: int) -> None:
    """The target holds what the source holds, and the digests say so; around the bound between small and big too."""
    data = os.urandom(size)
    os.pwrite(files[0], data, 0)
    seen: list[int] = []
    sums = copy_verified(*files, size, ["md5", "sha256"], Event(), seen.append)
    assert os.pread(files[1], size + 1, 0) == data
    assert sums == {"sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.md5(data).hexdigest()}
    assert sum(seen) == size
    assert all(0 < each <= 8 * MIB for each in seen)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_copy_without_the_kernel(files: tuple[int, int], monkeypatch: Any, number: int) -> None:
    """Where the file system can't copy by itself, the bytes go through memory."""
    monkeypatch.setattr(os, "copy_file_range", refusing(number))
    data = os.urandom(3 * MIB + 5)
    os.pwrite(files[0], data, 0)
    seen: list[int] = []
    copy_bytes(*files, len(data), Event(), seen.append)
    assert os.pread(files[1], len(data) + 1, 0) == data
    assert seen == [MIB, MIB, MIB, 5]


def test_a_kernel_that_copies_nothing(files: tuple[int, int], monkeypatch: Any) -> None:
    """A file system that answers 0 in the middle of a file doesn't end the copy early."""
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    os.pwrite(files[0], b"abc", 0)
    copy_bytes(*files, 3, Event(), nothing)
    assert os.pread(files[1], 9, 0) == b"abc"


def test_another_failure_is_not_hidden(files: tuple[int, int], monkeypatch: Any) -> None:
    """A failing disk is no reason to try another way."""
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.EIO))
    with pytest.raises(OSError) as caught:
        copy_bytes(*files, 3, Event(), nothing)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("size", [3, 5 * MIB])
def test_a_source_that_shrank(files: tuple[int, int], size: int) -> None:
    """A source that is shorter than it was is noticed."""
    os.pwrite(files[0], b"x" * (size - 1), 0)
    with pytest.raises(Shrunk):
        copy_verified(*files, size, [], Event(), nothing)


@pytest.mark.parametrize("size", [4, 20 * MIB])
def test_a_copy_that_differs(files: tuple[int, int], size: int, monkeypatch: Any) -> None:
    """What was written is really read again: one wrong byte is found."""
    copy = os.copy_file_range

    def spoil(source: int, target: int, count: int, at: int, to: int) -> int:
        done = copy(source, target, count, at, to)
        os.pwrite(target, b"!", at)
        return done

    monkeypatch.setattr(os, "copy_file_range", spoil)
    os.pwrite(files[0], b"x" * size, 0)
    with pytest.raises(Mismatch):
        copy_verified(*files, size, [], Event(), nothing)


@pytest.mark.parametrize("size", [1, 200 * MIB])
def test_a_copy_is_stopped(files: tuple[int, int], size: int) -> None:
    """A stop takes effect within a step, and no thread is left."""
    os.ftruncate(files[0], size)
    stop, threads = Event(), active_count()
    stop.set()
    with pytest.raises(Stopped):
        copy_verified(*files, size, [], stop, nothing)
    stop.clear()
    seen: list[int] = []

    def stop_soon(count: int) -> None:
        seen.append(count)
        stop.set()

    if size > 8 * MIB:
        with pytest.raises(Stopped):
            copy_verified(*files, size, [], stop, stop_soon)
        assert len(seen) == 1
        assert seen[0] <= 8 * MIB
    assert active_count() == threads


def test_a_reader_that_fails_ends_the_copy(files: tuple[int, int], monkeypatch: Any) -> None:
    """A disk that fails while the copy is read again is the reason that is told."""
    monkeypatch.setattr(os, "preadv", refusing(errno.EIO))
    os.ftruncate(files[0], 300 * MIB)
    with pytest.raises(OSError) as caught:
        copy_verified(*files, 300 * MIB, [], Event(), nothing)
    assert caught.value.errno == errno.EIO
    assert os.fstat(files[1]).st_size < 300 * MIB


def test_the_copy_waits_for_its_readers(files: tuple[int, int], monkeypatch: Any) -> None:
    """The copy is never further ahead of the slowest reader than the lead, so what is read again is in memory."""
    monkeypatch.setattr(copying, "LEAD", 16 * MIB)
    read, written, ahead, preadv = [0], [0], [0], os.preadv

    def note_read(file: int, buffers: list[Any], at: int) -> int:
        if file == files[1]:
            read[0] = at
        return preadv(file, buffers, at)

    def note_written(count: int) -> None:
        written[0] += count
        ahead.append(written[0] - read[0])

    monkeypatch.setattr(os, "preadv", note_read)
    os.ftruncate(files[0], 100 * MIB)
    copy_verified(*files, 100 * MIB, [], Event(), note_written)
    assert max(ahead) <= 16 * MIB + 8 * MIB + MIB
