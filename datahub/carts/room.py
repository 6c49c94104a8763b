"""Room for copies: promised before a byte is fetched, made by evicting the carts that were used longest ago."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.archive import cache
from datahub.archive.cache import Cache
from datahub.carts import fetch_tables, line, tables, waits
from datahub.carts.downloads import Downloads
from datahub.carts.model import Cart, Status
from datahub.errors import FinalFault, Superseded
from datahub.kit.clock import HubClock
from datahub.store import Store

__all__ = ["Room"]

log = Logger()


class NoRoomYet(Exception):
    """There will be room, but not now; ``wait`` says what for a cart waits until then."""

    def __init__(self, wait: str = waits.ROOM) -> None:
        super().__init__(wait)
        self.wait = wait


class NotSwept(NoRoomYet):
    """There is room as soon as what was dropped is removed."""


class Room:
    """Promises it, to carts that wait for it in the order in which they asked, whichever hub asks for them.

    Carts that were used in the last ``evict_after`` milliseconds are safe.
    """

    def __init__(self, store: Store, kept: Cache, downloads: Downloads, clock: HubClock, evict_after: int) -> None:
        self._store = store
        self._kept = kept
        self._downloads = downloads
        self._clock = clock
        self._evict_after = evict_after

    async def take(self, cart: Cart) -> bool:
        """Promise room for all that a cart is known to need; False if there is none now, or if others are to have it.

        Raises `FinalFault` for a cart that is larger than all room there is.
        """
        try:
            freed = await self._try(cart)
        except NoRoomYet as refused:
            await self._store.run("wait for room", partial(self._wait, cart, refused.wait))
            return False
        if freed:
            await self._kept.sweep()
        return True

    async def _try(self, cart: Cart) -> bool:
        try:
            return await self._store.run("reserve room", partial(self._take, cart))
        except NotSwept:
            await self._kept.sweep()
            return await self._store.run("reserve room", partial(self._take, cart))

    def _take(self, cart: Cart, connection: Connection) -> bool:
        """Take room for all of a cart or for nothing of it; whether a cart was evicted for it."""
        cache.lock_space(connection)
        now = _staged_still(connection, cart)
        need = fetch_tables.needed(connection, cart.id)
        whole, space = fetch_tables.whole_size(connection, cart.id), self._kept.space
        if whole > space:
            raise FinalFault(f"No Space Available: the cart needs {whole} bytes, and carts have {space} bytes in all")
        freed = bool(need) and self._make_room(connection, cart, need)
        fetch_tables.reserve(connection, cart.id)
        if _waits_for(now) in (waits.TURN, waits.ROOM):
            self._write(connection, now, waits.ARCHIVE)
            line.call(connection)
        return freed

    def _make_room(self, connection: Connection, cart: Cart, need: int) -> bool:
        """Raises `NoRoomYet` unless there is room and it is the cart's turn; whether a cart was evicted for it."""
        line.stand(connection, cart.id)
        if line.is_behind(connection, cart.id):
            raise NoRoomYet(waits.TURN)
        space = self._kept.space
        if space - cache.taken(connection) >= need:
            return False
        if space - cache.kept(connection) >= need:
            raise NotSwept
        self._evict_for(connection, need)
        return True

    def _wait(self, cart: Cart, what: str, connection: Connection) -> None:
        """Have a cart stand in line, and its record say since when it waits there, or is the first."""
        now = _staged_still(connection, cart)
        line.stand(connection, cart.id)
        if _waits_for(now) != what:
            self._write(connection, now, what)

    def _write(self, connection: Connection, cart: Cart, what: str) -> None:
        now = self._clock.wall()
        tables.change(connection, cart, now, waiting=waits.Wait(what, now).written(), error=None)

    def _evict_for(self, connection: Connection, need: int) -> None:
        now = self._clock.wall()
        for old in fetch_tables.evictable(connection, now - self._evict_after, now):
            if self._downloads.active(old.id):
                continue
            self._evict(connection, old, now)
            if self._kept.space - cache.kept(connection) >= need:
                return
        # All that was evicted in vain is there again, as this transaction never was.
        raise NoRoomYet

    def _evict(self, connection: Connection, old: Cart, now: int) -> None:
        reason = "for space"
        tables.change(connection, old, now, status=Status.EVICTED, time_gone=now, reason=reason)
        fetch_tables.free_all(connection, old.id)
        tables.forget_files(connection, [old.id])
        log.info("cart {uid} is evicted {reason}", uid=old.uid, reason=reason)


def _staged_still(connection: Connection, cart: Cart) -> Cart:
    """The cart as it is now; nobody ends it before this transaction does. Raises `Superseded` if somebody has."""
    now = tables.find(connection, cart.id, lock=True)
    if now is None or now.status is not Status.STAGING:
        raise Superseded(f"cart {cart.uid} is not being staged any more")
    return now


def _waits_for(cart: Cart) -> str | None:
    wait = waits.read(cart.waiting)
    return None if wait is None else wait.what
