"""Which transfers are stuck: in their state for much longer than others were on their way to the same destination.

Each transfer is looked at when it has been in its state for ten minutes, and again when it has been there for as long
as it may be; so a list of those that are stuck is a look into an index, however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.errors import Superseded
from datahub.kit.clock import HubClock
from datahub.kit.sizes import format_duration
from datahub.store import Store
from datahub.transfers import tables
from datahub.transfers.model import Status, Transfer

__all__ = ["FACTOR", "SAMPLE", "StuckWatch", "longest"]

log = Logger()

FACTOR = 3
"""So many times what was the longest of late is much longer than usual."""
SAMPLE = 20
UNKNOWN = 3_600_000
"""Milliseconds that a state may take where nothing was ever delivered."""
BATCH = 200


def longest(past: Sequence[Transfer], status: Status, *, staged: bool) -> int | None:
    """The longest time (ms) that one of ``past``, all delivered, was in ``status``, or ``staged`` and waiting."""
    ends = ("time_submitted", "time_staging")
    if status is Status.STAGING:
        ends = ("time_staging_finished", "time_transferring") if staged else ("time_staging", "time_staging_finished")
    elif status is Status.TRANSFERRING:
        ends = ("time_transferring", "time_success")
    spans = [(getattr(each, ends[0]), getattr(each, ends[1])) for each in past]
    return max((end - begin for begin, end in spans if begin is not None and end is not None), default=None)


class StuckWatch:
    """Marks the transfers that are stuck; any hub may do it at any time, each batch is one transaction."""

    def __init__(self, store: Store, clock: HubClock) -> None:
        self._store = store
        self._clock = clock

    async def look(self) -> None:
        """Look at the transfers whose time has come."""
        while await self._store.run("look for stuck transfers", self._look_at_some) == BATCH:
            pass

    def _look_at_some(self, connection: Connection) -> int:
        now = self._clock.wall()
        found = tables.unchecked(connection, now, BATCH)
        known: dict[str, list[Transfer]] = {}
        for each in found:
            if each.destination_path not in known:
                known[each.destination_path] = _past(connection, each.destination_path)
            self._look_at(connection, each, known[each.destination_path], now)
        return len(found)

    def _look_at(self, connection: Connection, transfer: Transfer, past: Sequence[Transfer], now: int) -> None:
        begun = transfer.since or transfer.time_submitted
        usual = longest(past, transfer.status, staged=transfer.time_staging_finished is not None)
        limit = UNKNOWN if usual is None else max(tables.PATIENCE, FACTOR * usual)
        change = partial(tables.change, connection, transfer, now)
        try:
            if begun + limit > now:
                change(check_at=begun + limit)
                return
            change(what="stuck", check_at=None, stuck_at=now)
        except Superseded:
            return
        told = "in all" if usual is None else f"where {format_duration(usual / 1000)} was the longest of late"
        log.warn(
            "transfer {id} has been {status} for {span}, {told}",
            id=transfer.id,
            status=str(transfer.status),
            span=format_duration((now - begun) / 1000),
            told=told,
        )


def _past(connection: Connection, destination: str) -> list[Transfer]:
    """What was delivered to ``destination`` of late; where that is nothing, anywhere."""
    find = partial(tables.lately_delivered, connection, limit=SAMPLE)
    return find(destination) or find(None)
