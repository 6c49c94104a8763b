"""A job's output, moved from its pipes into files by the kernel. Standard library only."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
from contextlib import suppress
from typing import Any, Final

from datahub.processes.kernel import libc

__all__ = ["Stream"]

PIPE: Final = 1 << 20
"""Bytes a job may write before it waits for us."""

TURN: Final = 16 * PIPE
"""Bytes moved at a stretch, before orders are looked at again."""

BLOCK: Final = 4096
KEEP_SIZE_PUNCH_HOLE: Final = 3


class Stream:
    """What a job writes, on its way from a pipe into a file; beyond ``limit`` bytes the head is dropped.

    Never the file itself: ``echo x >/dev/stderr`` would open it anew and wipe it. ``lost`` counts what could not be
    kept since the ``fault``.
    """

    def __init__(self, path: str, limit: int) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)
        with suppress(OSError):
            fcntl.fcntl(self.reader, fcntl.F_SETPIPE_SZ, PIPE)
        self.total = self.dropped = self.lost = 0
        self.fault: str | None = None
        self._path = path
        self._limit = limit
        self._slack = max(BLOCK, min(PIPE, limit // 8))
        self._file = -1

    def begin(self) -> None:
        """Leave the writing end to the job."""
        os.close(self.writer)

    def take(self, most: int = TURN) -> None:
        """Move what is there, about ``most`` bytes."""
        while most > 0 and self.reader >= 0:
            try:
                count = self._move()
            except BlockingIOError:
                return
            if count == 0:
                os.close(self.reader)
                self.reader = -1
            most -= count

    def _move(self) -> int:
        if self.fault is not None:
            count = len(os.read(self.reader, PIPE))
            self.lost += count
            return count
        try:
            if self._file < 0 and not self._has_come():
                return 0
            if self._file < 0:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            count = os.splice(self.reader, self._file, PIPE, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError as error:
            self.fault = f"output is not kept any more: {error.strerror}"
            return self._move()
        self.total += count
        if self.total - self.dropped > self._limit + self._slack:
            self._drop()
        return count

    def _has_come(self) -> bool:
        """Whether there is anything to keep: most jobs that say nothing cost no file. Raises `BlockingIOError`."""
        poll = select.poll()
        poll.register(self.reader, select.POLLIN)
        found = poll.poll(0)
        if not found:
            raise BlockingIOError
        return bool(found[0][1] & select.POLLIN)

    def _drop(self) -> None:
        first = (self.total - self._limit) // BLOCK * BLOCK
        if libc.fallocate(self._file, KEEP_SIZE_PUNCH_HOLE, ctypes.c_longlong(0), ctypes.c_longlong(first)) == 0:
            self.dropped = first
        else:
            self.fault = "output is not kept any more: over the limit, and this file system can't drop its beginning"

    def facts(self) -> list[Any]:
        """What is told of it."""
        return [self.total, self.dropped, self.lost, self.fault]

    def finish(self) -> None:
        """Take the rest; nobody is left to write more, except one whom the job gave its pipe to."""
        self.take(4 * PIPE)
        for each in (self.reader, self._file):
            if each >= 0:
                os.close(each)
        self.reader = self._file = -1
