"""What is told of messages beside themselves: how many are kept, and that one was deleted."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from sqlalchemy import Connection

from datahub.events import Actor, Happening
from datahub.events.summary import Summary, summarise
from datahub.events.tables import add_up, append
from datahub.store import Store

__all__ = ["DELETED", "Books"]

KIND: Final = "message"
KEPT: Final = "KEPT"
DELETED: Final = f"{KIND}.deleted"
"""The type of the event that says that a message was deleted; its subject is the digest."""


class Books:
    """The books of messages in ``store``, the hub's own database; ``wall`` tells the time, in ms since 1970.

    A message that is kept is no event: there may be thousands in a second. They are counted in memory, and what was
    counted is written down now and then; a hub that is killed leaves out those of its last second.
    """

    def __init__(self, store: Store, wall: Callable[[], int], wake: Callable[[], None]) -> None:
        self._store = store
        self._wall = wall
        self._wake = wake
        self._count = self._size = 0

    def kept(self, sizes: Collection[int]) -> None:
        """Count new messages, of these many bytes each."""
        self._count += len(sizes)
        self._size += sum(sizes)

    async def write_down(self) -> None:
        """Add what was counted to the tallies; raises `Unavailable`, `NoSpace`, and then it is still counted."""
        count, size = self._count, self._size
        if count:
            self._count, self._size = 0, 0
            added = partial(add_up, kind=KIND, status=KEPT, count=count, size=size, now=self._wall())
            try:
                await self._store.run("count messages", added)
            except BaseException:
                self._count, self._size = self._count + count, self._size + size
                raise

    def strike(self, connection: Connection, digest: str, size: int | None, actor: Actor) -> None:
        """Tell, in the transaction that deletes it, of a message of ``size`` bytes; None if it was never counted."""
        origin = None if size is None else KEPT
        gone = Happening(KIND, digest, actor.name, "DELETED", origin, before=size or 0)
        append(connection, [gone], actor, self._wall())

    async def struck(self, digest: str, actor: Actor) -> None:
        """Tell that a message was deleted elsewhere."""
        await self._store.run("tell of a deleted message", partial(self.strike, digest=digest, size=None, actor=actor))
        self._wake()

    def told(self) -> None:
        """What was written by `strike` is committed."""
        self._wake()

    async def summary(self) -> Summary:
        """How many messages there are, and how many came and went lately."""
        return await self._store.read("sum up messages", self._summarise)

    def _summarise(self, connection: Connection) -> Summary:
        return summarise(connection, KIND, self._wall(), {})
