"""Messages in the hub's own database: ``database:``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from sqlalchemy import Connection
from twisted.internet.interfaces import IReactorTime

from datahub.errors import StartError
from datahub.events import Actor
from datahub.kit.services import Repeating
from datahub.kit.sizes import format_size
from datahub.messages import tables
from datahub.messages.books import Books
from datahub.store import Store

__all__ = ["DatabaseMessages", "check_packets"]

# PyMySQL writes a byte as at most two, and some text stands around them.
GROWTH, AROUND = 2, 64 * 1024
# Seconds.
COUNTED_EVERY = 1.0


class DatabaseMessages:
    """The port `datahub.messages.stores.MessageStore` on ``store``: what is put is on its disk."""

    def __init__(self, store: Store, books: Books, reactor: IReactorTime) -> None:
        self._store = store
        self._books = books
        self._counting = Repeating("counting messages", COUNTED_EVERY, books.write_down, reactor)

    def start(self) -> None:
        """Begin to count; the database is a part of its own."""
        self._counting.start()

    async def stop(self) -> None:
        """Write down what was counted last."""
        await self._counting.stop()
        await self._books.write_down()

    async def put(self, contents: Mapping[str, bytes]) -> frozenset[str]:
        """Keep all in one transaction."""
        new = await self._store.run("keep messages", partial(tables.keep, contents=contents))
        self._books.kept([len(contents[digest]) for digest in new])
        return new

    async def get(self, digest: str) -> bytes | None:
        """Read one row."""
        return await self._store.read("find a message", partial(tables.fetch, digest=digest))

    async def present(self, digests: Collection[str]) -> frozenset[str]:
        """Look the digests up, some hundred at a time."""
        return await self._store.read("look for messages", partial(tables.present, digests=digests))

    async def delete(self, digest: str, actor: Actor) -> bool:
        """Delete the row and tell so, in one transaction."""
        # What was counted here is to be in the sum before something is taken off it.
        await self._books.write_down()
        gone = await self._store.run("delete a message", partial(self._remove, digest=digest, actor=actor))
        if gone:
            self._books.told()
        return gone

    def _remove(self, connection: Connection, digest: str, actor: Actor) -> bool:
        size = tables.remove(connection, digest)
        if size is None:
            return False
        self._books.strike(connection, digest, size, actor)
        return True

    async def check(self) -> str | None:
        """Say nothing: the database is asked by itself."""
        return None


def check_packets(connection: Connection, limit: int) -> None:
    """Raise `StartError` when the server would not take a message of ``limit`` bytes."""
    largest, needed = tables.largest_packet(connection), GROWTH * limit + AROUND
    if largest is not None and largest < needed:
        raise StartError(
            f"the database takes statements of {format_size(largest)}, a message of [messages] limit "
            f"({format_size(limit)}) needs {format_size(needed)}: raise max_allowed_packet there, or lower the limit"
        )
