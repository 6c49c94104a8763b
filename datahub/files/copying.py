"""Copying one open file to another in bounded memory, and knowing that the copy is right."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition, Event
from types import TracebackType
from typing import Self

from datahub.files.digests import BLOCK, digest_of, new_digest
from datahub.files.stopping import Stopped, check

__all__ = ["Mismatch", "Shrunk", "copy_bytes", "copy_verified"]

STEP = 8 * 1024 * 1024  # the longest way between two looks at the stop flag
CHUNK = 1024 * 1024  # of a plain read and write
SMALL = 4 * 1024 * 1024  # up to here starting threads costs more than they save
LEAD = 64 * 1024 * 1024  # the copy's lead over its readers: what is read again is still in the page cache

_NOT_HERE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}

Progress = Callable[[int], None]


class Shrunk(Exception):
    """The source ended before the size it had."""


class Mismatch(Exception):
    """What was written reads differently from the source."""


def copy_bytes(source: int, target: int, size: int, stop: Event, progress: Progress) -> None:
    """Copy the first ``size`` bytes between two open files, by the kernel where the file system can.

    ``progress`` is told the number of bytes of each step, at most 8 MiB.
    Raises `Stopped`, `Shrunk`, `OSError`.
    """
    done, by_kernel = 0, True
    while done < size:
        check(stop)
        count = _in_kernel(source, target, done, size - done) if by_kernel else 0
        if not count:
            # A refusal, and also the 0 that some network and virtual file systems answer in the middle of a file.
            by_kernel = False
            count = _through_memory(source, target, done, size - done)
        done += count
        progress(count)


def _in_kernel(source: int, target: int, at: int, left: int) -> int:
    try:
        return os.copy_file_range(source, target, min(left, STEP), at, at)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return 0
        raise


def _through_memory(source: int, target: int, at: int, left: int) -> int:
    data = os.pread(source, min(left, CHUNK), at)
    if not data:
        raise Shrunk
    return os.pwrite(target, data, at)


def copy_verified(
    source: int, target: int, size: int, algorithms: Iterable[str], stop: Event, progress: Progress
) -> dict[str, str]:
    """Copy ``size`` bytes, read both files and give the digests by algorithm; sha256 is always among them.

    Big files are read by threads of their own, close behind the copy. The target is read through the page
    cache: this proves the copying, not the disk. Raises `Mismatch` beside what `copy_bytes` raises.
    """
    wanted = [(source, "sha256"), (target, "sha256")]
    wanted += [(target, algorithm) for algorithm in algorithms if algorithm != "sha256"]
    if size <= SMALL:
        copy_bytes(source, target, size, stop, progress)
        digests = [digest_of(file, algorithm, stop) for file, algorithm in wanted]
    else:
        digests = _copy_followed(source, target, size, wanted, stop, progress)
    if digests[0] != digests[1]:
        raise Mismatch(f"sha256 {digests[0]} was read, {digests[1]} was written")
    return {algorithm: digest for (_, algorithm), digest in zip(wanted, digests, strict=True)}


def _copy_followed(
    source: int, target: int, size: int, wanted: list[tuple[int, str]], stop: Event, progress: Progress
) -> list[str]:
    race = _Race(size, len(wanted))

    def advance(count: int) -> None:
        progress(count)
        race.wrote(count)

    with ThreadPoolExecutor(len(wanted), "datahub-digest") as threads:
        reading = [threads.submit(_follow, race, number, *each) for number, each in enumerate(wanted)]
        try:
            with race:
                copy_bytes(source, target, size, stop, advance)
        except Stopped:
            _raise_failure(reading)
            raise
        return [each.result() for each in reading]


def _raise_failure(reading: list[Future[str]]) -> None:
    """Raise what went wrong with a reader, if that is what has stopped the copy."""
    for each in reading:
        failure = each.exception()
        if failure and not isinstance(failure, Stopped):
            raise failure


def _follow(race: _Race, number: int, file: int, algorithm: str) -> str:
    digest, buffer, at = new_digest(algorithm), memoryview(bytearray(BLOCK)), 0
    with race:
        while at < race.size:
            end = race.readable(number, at)
            while at < end:
                count = os.preadv(file, [buffer[: end - at]], at)
                if not count:
                    raise Shrunk
                digest.update(buffer[:count])
                at += count
    return digest.hexdigest()


class _Race:
    """How far the copy is, and how far those are who read behind it; whoever leaves early ends it for all."""

    def __init__(self, size: int, readers: int) -> None:
        self.size = size
        self._moved = Condition()
        self._written = 0
        self._read = [0] * readers
        self._left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._moved:
            self._left = True
            self._moved.notify_all()

    def wrote(self, count: int) -> None:
        """Tell the readers, and wait while the slowest is too far behind; raises `Stopped` when one has left."""
        with self._moved:
            self._written += count
            self._moved.notify_all()
            self._moved.wait_for(lambda: self._left or self._written - min(self._read) <= LEAD)
            if self._left and self._written < self.size:
                raise Stopped

    def readable(self, reader: int, position: int) -> int:
        """Tell how far ``reader`` is and give the end of what it may read next; raises `Stopped` if nothing comes."""
        with self._moved:
            self._read[reader] = position
            self._moved.notify_all()
            self._moved.wait_for(lambda: self._left or self._written > position)
            if self._written <= position:
                raise Stopped
            return self._written
