"""What becomes of jobs by the passing of time: old records, jobs that nobody starts, and files without a record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.jobs import tables
from datahub.jobs.files import Files
from datahub.kit.clock import HubClock
from datahub.store import Store

__all__ = ["Housekeeping", "Keep"]

log = Logger()

BATCH = 200
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Keep:
    """How long records are kept, in milliseconds, and how many of jobs that have ended."""

    stopped: int
    created: int
    count: int


class Housekeeping:
    """Any hub may remove records at any time; each removes the files that lie with it."""

    def __init__(self, store: Store, clock: HubClock, files: Files, keep: Keep) -> None:
        self._store = store
        self._clock = clock
        self._files = files
        self._keep = keep

    async def forget_old(self) -> None:
        """Remove jobs that ended long ago, those beyond the number kept, and those that nobody has started."""
        removed = 0
        while numbers := await self._store.run("remove old jobs", self._remove):
            await self._files.remove(numbers)
            removed += len(numbers)
        if removed:
            log.info("{count} jobs older or more than [jobs] keeps were removed", count=removed)

    def _remove(self, connection: Connection) -> list[str]:
        now, keep = self._clock.wall(), self._keep
        numbers = tables.expired(connection, now - keep.stopped, now - keep.created, BATCH)
        numbers = numbers or tables.surplus(connection, keep.count, BATCH)
        if numbers:
            tables.remove(connection, numbers, now)
        return numbers

    async def forget_files(self) -> None:
        """Remove files, a day old, of jobs that are on record no more: another node has removed those."""
        found = sorted(await self._files.older_than(DAY, self._clock.wall() / 1000))
        for first in range(0, len(found), BATCH):
            some = found[first : first + BATCH]
            known = await self._store.read("known jobs", partial(tables.which_of, numbers=some))
            if strays := set(some) - known:
                await self._files.remove(strays)
                log.info("files of {count} jobs that are not on record were removed", count=len(strays))
