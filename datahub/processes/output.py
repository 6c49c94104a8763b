"""What jobs have written, read from its files while it grows: by any number of readers, none of whom delays another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from datahub.kit.threads import Pool, taking
from datahub.processes.runner import Written

__all__ = ["Dropped", "Reader", "read_tail", "state_of"]

BLOCK: Final = 64 * 1024
"""Bytes read at once: about what a reader who has stopped reading costs."""


class Dropped(Exception):
    """What was to be read is not kept any more; ``first`` is the first byte that is."""

    def __init__(self, first: int) -> None:
        super().__init__(f"the output before byte {first} was dropped")
        self.first = first


class Reader:
    """One reader of one file of output, of which its writer keeps at least the last ``keep`` bytes."""

    def __init__(self, path: Path, keep: int, pool: Pool) -> None:
        self._path = path
        self._keep = keep
        self._pool = pool
        self._file = -1

    async def read(self, offset: int, count: int = BLOCK) -> bytes:
        """At most ``count`` bytes from ``offset`` on, none where nothing is yet; raises `Dropped`."""
        if self._file < 0:
            self._file = await taking(self._pool, partial(_open, self._path), _close)
            if self._file < 0:
                return b""
        buffer = bytearray(min(count, BLOCK))
        try:
            # What is in the page cache, as fresh output is, costs less than a change of threads.
            read = os.preadv(self._file, [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            read = await self._pool.run(os.preadv, self._file, [buffer], offset)
        self._check(offset)
        return bytes(memoryview(buffer)[:read])

    def _check(self, offset: int) -> None:
        """Raise `Dropped` if the writer has made a hole where was read: after the reading, since it does not wait."""
        if os.fstat(self._file).st_size > self._keep:
            first = first_byte(self._file)
            if first > offset:
                raise Dropped(first)

    def close(self) -> None:
        """Read no more."""
        _close(self._file)
        self._file = -1


def _close(opened: int) -> None:
    if opened >= 0:
        os.close(opened)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def first_byte(file: int) -> int:
    """Where the first bytes are that were not dropped."""
    try:
        return os.lseek(file, 0, os.SEEK_DATA)
    except OSError:
        return 0


def read_tail(paths: Sequence[Path], most: int) -> bytes:
    """The last ``most`` bytes of each file, one behind the other; blocking."""
    found = []
    for path in paths:
        file = _open(path)
        if file >= 0:
            try:
                size = os.fstat(file).st_size
                first = max(size - most, 0)
                found.append(os.pread(file, most, first))
            finally:
                os.close(file)
    return b"".join(found)


def state_of(paths: Sequence[Path], keep: int) -> tuple[Written, ...]:
    """What lies in the files of a job whose writer can't be asked any more; blocking."""
    found = []
    for path in paths:
        file = _open(path)
        if file < 0:
            found.append(Written())
            continue
        try:
            size = os.fstat(file).st_size
            found.append(Written(size, first_byte(file) if size > keep else 0))
        finally:
            os.close(file)
    return tuple(found)
