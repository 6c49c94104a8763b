"""What becomes of carts by the passing of time: those nobody uses go, then their files, in the end their records."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.carts import fetch_tables, tables
from datahub.carts.downloads import Downloads
from datahub.carts.model import Cart, Status
from datahub.errors import Superseded
from datahub.kit.clock import HubClock
from datahub.kit.sizes import format_duration
from datahub.store import Store

__all__ = ["Housekeeping"]

log = Logger()

BATCH: Final = 50
FILES: Final = 1_000
"""So many files are let go of by one transaction: others wait while their rows are written."""


class Housekeeping:
    """Any hub may do it at any time: each batch is one transaction. ``expire`` and ``keep`` in milliseconds."""

    def __init__(self, store: Store, downloads: Downloads, clock: HubClock, expire: int, keep: int) -> None:
        self._store = store
        self._downloads = downloads
        self._clock = clock
        self._expire = expire
        self._keep = keep

    async def free(self) -> None:
        """Let go of the files of carts that are gone, once nobody downloads them any more."""
        while await self._store.run("free carts", self._free):
            pass

    def _free(self, connection: Connection) -> int:
        now = self._clock.wall()
        numbers = tables.left_behind(connection, now, BATCH)
        numbers = [each for each in numbers if not self._downloads.active(each)]
        freed, left = [], FILES
        for each in numbers:
            left -= fetch_tables.free(connection, each, left)
            if left <= 0:
                break  # it may have more of them
            freed.append(each)
        if freed:
            tables.forget_files(connection, freed)
            if replaced := tables.replaced(connection, freed):
                tables.remove(connection, replaced, now)
        return len(numbers)

    async def expire(self) -> None:
        """Let carts go that nobody has used for long."""
        while await self._store.run("expire carts", self._expire_some):
            pass

    def _expire_some(self, connection: Connection) -> int:
        now, gone = self._clock.wall(), 0
        for cart in tables.unused(connection, now - self._expire, BATCH):
            gone += self._evict(connection, cart, now)
        return gone

    def _evict(self, connection: Connection, cart: Cart, now: int) -> bool:
        if self._downloads.active(cart.id) or (cart.busy_until or 0) > now:
            return False
        reason = f"unused for {format_duration(self._expire / 1000)}"
        try:
            tables.change(connection, cart, now, status=Status.EVICTED, time_gone=now, reason=reason)
        except Superseded:
            return False
        log.info("cart {uid} is evicted: {reason}", uid=cart.uid, reason=reason)
        return True

    async def forget_old(self) -> None:
        """Remove the records of carts that went and are older than they are kept."""
        removed = 0
        while count := await self._store.run("remove old carts", self._remove):
            removed += count
        if removed:
            log.info("{count} carts older than [carts] keep were removed", count=removed)

    def _remove(self, connection: Connection) -> int:
        now = self._clock.wall()
        numbers = tables.expired(connection, now - self._keep, BATCH)
        if numbers:
            for each in numbers:
                fetch_tables.free_all(connection, each)
            tables.remove(connection, numbers, now)
        return len(numbers)
