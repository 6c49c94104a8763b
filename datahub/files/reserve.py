"""The part of the disk that is kept free, so that the hub can always write down what it knows."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.errors import NoSpace
from datahub.kit.services import Repeating
from datahub.kit.sizes import format_size
from datahub.kit.threads import Pool

__all__ = ["Reserve"]

log = Logger()

EVERY = 2.0


class Reserve:
    """Watches the file system of ``folder``; below ``least`` free bytes new work is refused."""

    def __init__(self, folder: Path, least: int, pool: Pool, reactor: IReactorTime) -> None:
        self._folder = folder
        self._least = least
        self._pool = pool
        self._free: int | None = None
        self._watch = Repeating("watch the free space", EVERY, self.look, reactor)

    def start(self) -> None:
        """Begin to watch."""
        self._watch.start()

    async def stop(self) -> None:
        """Watch no more."""
        await self._watch.stop()

    async def look(self) -> None:
        """Measure the free space now."""
        before = self.low()
        try:
            self._free = await self._pool.run(_free_bytes, self._folder)
        except OSError as error:
            log.warn("can't tell the free space of {folder}: {error}", folder=str(self._folder), error=str(error))
        if self.low() != before:
            log.warn("{told}", told=self.low() or f"{self._folder} has room again: new work is taken")

    def low(self) -> str | None:
        """Why new work is refused; None when there is room."""
        if self._free is None or self._free >= self._least:
            return None
        return (
            f"{self._folder} has {format_size(self._free)} free, less than the {format_size(self._least)} "
            "that [hub] min_free keeps: free some space"
        )

    def admit(self) -> None:
        """Raise `NoSpace` when new work is refused."""
        if reason := self.low():
            raise NoSpace(reason)


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
