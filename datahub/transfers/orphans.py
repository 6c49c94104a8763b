"""Files that no transfer needs any more: what attempts left under temporary names, and nobody came to remove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.kit.clock import HubClock
from datahub.kit.sizes import count
from datahub.store import Store
from datahub.transfers import tables
from datahub.transfers.movers import Leftover, Mover
from datahub.transfers.pipeline import LANES

__all__ = ["Orphans"]

log = Logger()

AGE = 86_400.0
"""Seconds for which nothing is touched: whoever still works on it will have been noticed by then."""
BATCH = 500


class Orphans:
    """Removes what lies under the temporary name of a transfer that has ended, or is not known (any more)."""

    def __init__(self, store: Store, clock: HubClock, movers: Mapping[str, Mover]) -> None:
        self._store = store
        self._clock = clock
        self._movers = movers

    async def sweep(self) -> None:
        """Look everywhere, once."""
        for mover in self._movers.values():
            try:
                found = await mover.leftovers(self._clock.wall() / 1000 - AGE)
                orphans = await self._orphans(found)
                for each in orphans:
                    await mover.remove(each)
            except OSError as error:
                log.warn("the sweep of leftovers ends early: {error}", error=str(error))
                continue
            for each in orphans:
                log.info("removed {place}, which transfer {id} had left", place=each.place, id=each.transfer)
            if orphans:
                log.warn("{told} of transfers that have ended removed", told=count(len(orphans), "leftover"))

    async def _orphans(self, found: Sequence[Leftover]) -> list[Leftover]:
        numbers = sorted({each.transfer for each in found})
        needed: set[str] = set()
        for first in range(0, len(numbers), BATCH):
            some = numbers[first : first + BATCH]
            needed |= await self._store.read("whose leftovers these are", partial(_needed, numbers=some))
        return [each for each in found if each.transfer not in needed]


def _needed(connection: Connection, numbers: Iterable[str]) -> set[str]:
    """Those of ``numbers`` that are not final, or in the ledger."""
    some = list(numbers)
    return tables.unfinished(connection, some) | set(tables.find_places(connection, LANES, some))
