"""Messages in the hub's own database: ``database:``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from sqlalchemy import Connection

from datahub.errors import StartError
from datahub.kit.sizes import format_size
from datahub.messages import tables
from datahub.store import Store

__all__ = ["DatabaseMessages", "check_packets"]

# PyMySQL writes a byte as at most two, and some text stands around them.
GROWTH, AROUND = 2, 64 * 1024


class DatabaseMessages:
    """The port `datahub.messages.stores.MessageStore` on ``store``: what is put is on its disk."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self) -> None:
        """Open nothing: the database is a part of its own."""

    async def stop(self) -> None:
        """Close nothing."""

    async def put(self, contents: Mapping[str, bytes]) -> frozenset[str]:
        """Keep all in one transaction."""
        return await self._store.run("keep messages", partial(tables.keep, contents=contents))

    async def get(self, digest: str) -> bytes | None:
        """Read one row."""
        return await self._store.read("find a message", partial(tables.fetch, digest=digest))

    async def present(self, digests: Collection[str]) -> frozenset[str]:
        """Look the digests up, some hundred at a time."""
        return await self._store.read("look for messages", partial(tables.present, digests=digests))

    async def delete(self, digest: str) -> bool:
        """Delete the row."""
        return await self._store.run("delete a message", partial(tables.remove, digest=digest))

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
