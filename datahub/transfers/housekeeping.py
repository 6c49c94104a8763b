"""What becomes of transfers by the passing of time: deadlines, and records that are old."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.errors import Superseded
from datahub.kit.clock import HubClock
from datahub.store import Store
from datahub.transfers import claims, file_tables, tables
from datahub.transfers.model import Status
from datahub.transfers.pipeline import LANES, too_late
from datahub.transfers.service import is_being_published
from datahub.work import ledger

__all__ = ["Housekeeping"]

log = Logger()

BATCH = 200
FILES = 10_000


class Housekeeping:
    """Any hub may do it at any time: each batch is one transaction. ``keep`` in milliseconds."""

    def __init__(self, store: Store, clock: HubClock, keep: int) -> None:
        self._store = store
        self._clock = clock
        self._keep = keep

    async def end_overdue(self) -> None:
        """End in ERROR what was not final by its deadline; what has begun is stopped and undone first."""
        while numbers := await self._store.read(
            "overdue", partial(tables.overdue, now=self._clock.wall(), limit=BATCH)
        ):
            for number in numbers:
                await self._store.run("end an overdue transfer", partial(self._end, number))
            if len(numbers) < BATCH:
                return

    def _end(self, number: str, connection: Connection) -> None:
        transfer = tables.find(connection, number, lock=True)
        if transfer is None or transfer.status.final or is_being_published(connection, transfer):
            return
        now, reason = self._clock.wall(), too_late(transfer)
        try:
            if ledger.withdraw(connection, LANES, number):
                tables.change(connection, transfer, now, status=Status.ERROR, time_error=now, detailed_status=reason)
            else:
                tables.change(connection, transfer, now, status=Status.CANCELLING, detailed_status=reason)
        except Superseded:
            log.info("transfer {number} changed as its deadline passed", number=number)

    async def forget_old(self) -> None:
        """Remove the records of transfers that ended and are older than they are kept."""
        removed = 0
        while True:
            # The files first, in batches of their own: one transfer may have a million.
            while await self._store.run("remove files of old transfers", self._remove_files):
                pass
            count = await self._store.run("remove old transfers", self._remove)
            removed += count
            if not count:
                break
        if removed:
            log.info("{count} transfers older than [transfers] keep were removed", count=removed)

    def _remove_files(self, connection: Connection) -> int:
        return file_tables.forget(connection, tables.expired(connection, self._clock.wall() - self._keep, BATCH), FILES)

    def _remove(self, connection: Connection) -> int:
        now = self._clock.wall()
        numbers = tables.expired(connection, now - self._keep, BATCH)
        if numbers:
            claims.forget(connection, numbers)
            tables.remove(connection, numbers, now)
        return len(numbers)
