"""Who downloads what: a cart that is being downloaded keeps its files, whatever becomes of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from sqlalchemy import Connection, func, select

from datahub.carts import tables
from datahub.carts.model import Cart
from datahub.errors import Unavailable
from datahub.kit.aio import Task
from datahub.kit.clock import HubClock
from datahub.kit.memory import give_back
from datahub.kit.threads import Pool
from datahub.store import Store
from datahub.work.tables import hub

__all__ = ["DELETED", "LEASE", "RENEW", "Downloads"]

DELETED: Final = "carts deleted"
"""The signal with which a hub has the others break off their downloads of what it has deleted."""

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
        self._looker: Task | None = None
        self._wanted = False

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

    def look_for_deleted(self, _: bytes = b"") -> None:
        """Break off the downloads of carts that another hub has just deleted."""
        self._wanted = True
        if self._looker is None or not self._looker.running:
            self._looker = Task("break off downloads of deleted carts", self._look_while_wanted())

    async def _look_while_wanted(self) -> None:
        while self._wanted:
            self._wanted = False
            # If the database is away, they are broken off with the next look.
            with suppress(Unavailable):
                await self.break_deleted()

    async def break_deleted(self) -> None:
        """Break off the downloads here of carts that are deleted, by whichever hub."""
        if self._here:
            numbers = list(self._here)
            for each in await self._store.read("deleted carts", partial(tables.deleted, numbers=numbers)):
                self.break_off(each)

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
