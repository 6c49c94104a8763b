"""Where state lives: one SQL database, written in named transactions that run off the reactor's thread.

``await store.run("submit transfer", work)`` calls ``work(connection)``, commits, and gives its value once
it is on disk. ``work`` may run more than once (a deadlock, a lost connection, a void group), so it touches
nothing but the connection, and it returns plain values: no row, cursor or result leaves the thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

__all__ = ["Store", "Work"]

T = TypeVar("T")
Work = Callable[[Connection], T]


class Store(Protocol):
    """The port; `datahub.store.sqlite` and `datahub.store.server` implement it."""

    def start(self) -> None:
        """Open the database; the schema is there already."""

    async def run(self, name: str, work: Callable[[Connection], T]) -> T:
        """Call ``work(connection)`` in a transaction called ``name`` and give its value after the commit.

        Raises what ``work`` raises (all of it rolled back), `datahub.errors.Unavailable` when the database
        is away and `datahub.errors.NoSpace` when its disk is full.
        """
        ...

    async def read(self, name: str, work: Callable[[Connection], T]) -> T:
        """As `run`, for work that only reads: it never waits for writers."""
        ...

    async def stop(self) -> None:
        """Finish the transactions under way and close the database."""
