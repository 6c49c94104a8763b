"""Who downloads what: a cart that is being downloaded keeps its files, whatever becomes of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from sqlalchemy import Connection, func, select

from datahub.carts import tables
from datahub.carts.model import Cart
from datahub.kit.clock import HubClock
from datahub.kit.memory import give_back
from datahub.kit.threads import Pool
from datahub.store import Store
from datahub.work.tables import hub

__all__ = ["LEASE", "RENEW", "Downloads"]

RENEW: Final = 20.0
"""Seconds between two times that this daemon says which carts are being downloaded here."""
LEASE: Final = 90_000
"""Milliseconds that one such word holds."""
GRACE: Final = 30_000
"""Milliseconds within which another hub renews its own."""


class Downloads:
    """The downloads under way here, and those that other hubs have told of in the database.

    A cart was used when its download began, and as long as it went on.
    """

    def __init__(self, store: Store, clock: HubClock, pool: Pool) -> None:
        self._store = store
        self._pool = pool
        self._clock = clock
        self._here: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self._told: set[str] = set()
        self._ended: set[str] = set()

    @contextmanager
    def under_way(self, cart: Cart, abort: Callable[[], None]) -> Iterator[None]:
        """Count a download while it goes on; ``abort`` breaks it off."""
        self._here[cart.id].append(abort)
        try:
            yield
        finally:
            self._here[cart.id].remove(abort)
            if not self._here[cart.id]:
                del self._here[cart.id]
                self._ended.add(cart.id)

    def active(self, number: str) -> bool:
        """Whether the cart is being downloaded here."""
        return number in self._here

    def break_off(self, number: str) -> None:
        """Break off the downloads of a cart that are under way here."""
        for abort in list(self._here.get(number, ())):
            abort()

    async def begin(self, cart: Cart) -> None:
        """Say, before its first byte, that a cart is being downloaded; nothing is written if that was said lately."""
        if cart.id in self._told:
            return
        await self._store.run("begin a download", partial(self._tell, numbers=[cart.id]))
        self._told.add(cart.id)

    async def renew(self) -> None:
        """Say anew which carts are being downloaded here, and which were until now."""
        going_on, ended = set(self._here), self._ended - set(self._here)
        self._ended = set()
        told, self._told = self._told, going_on & self._told
        if going_on or ended or told:
            await self._store.run("downloads", partial(self._renew, going_on=list(going_on), ended=list(ended)))
        if ended:
            # Each had half a megabyte or two of small files in memory.
            await self._pool.run(give_back)

    def _tell(self, connection: Connection, numbers: list[str]) -> None:
        now = self._clock.wall()
        tables.touch(connection, numbers, now, now + LEASE)

    def _renew(self, connection: Connection, going_on: list[str], ended: list[str]) -> None:
        if going_on:
            self._tell(connection, going_on)
        if ended:
            now = self._clock.wall()
            # The word of another hub that sends the same cart must not be taken back: it says so anew by then.
            others = connection.execute(select(func.count()).select_from(hub)).scalar_one() > 1
            tables.touch(connection, ended, now, now + GRACE if others else None)
