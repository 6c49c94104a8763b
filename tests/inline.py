"""A database in memory whose transactions run where they are called, or fail as a test says; and a queue that tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool
from twisted.internet.defer import Deferred

import datahub.carts.tables
import datahub.store.requests
import datahub.transfers.tables
import datahub.work.tables  # noqa: F401  # each registers its tables
from datahub.store.schema import metadata

__all__ = ["Announcements", "InlineStore"]

T = TypeVar("T")


class InlineStore:
    """The port `datahub.store.Store`: ``away`` is raised by transactions of a name, ``gates`` hold them back.

    The name "" stands for all. ``before`` is called between the decision and the transaction of a name.
    """

    def __init__(self) -> None:
        self._engine = create_engine("sqlite://", poolclass=StaticPool)
        metadata.create_all(self._engine)
        self.names: list[str] = []
        self.away: dict[str, Exception] = {}
        self.gates: dict[str, Deferred[None]] = {}
        self.before: dict[str, Callable[[Connection], object]] = {}

    def start(self) -> None: ...

    async def run(self, name: str, work: Callable[[Connection], T]) -> T:
        self.names.append(name)
        if name in self.gates:
            await self.gates[name]
        if error := self.away.get(name) or self.away.get(""):
            raise error
        self.now(self.before.pop(name, lambda _: None))
        answer: T = self.now(work)
        return answer

    read = run

    def now(self, work: Callable[[Connection], Any]) -> Any:
        """Run a transaction at once, whatever is away."""
        with self._engine.begin() as connection:
            return work(connection)

    async def stop(self) -> None:
        self._engine.dispose()


class Announcements:
    """A queue that is the list of the lanes announced; signals reach the ``others``."""

    def __init__(self) -> None:
        self.lanes: list[str] = []
        self.others: list[Announcements] = []
        self._listeners: list[tuple[str, Callable[[bytes], None]]] = []

    def beside(self, other: Announcements) -> None:
        """Carry signals from here to ``other``, and from there to here."""
        self.others.append(other)
        other.others.append(self)

    def listen(self, lane: str, listener: Any) -> None: ...

    def start(self) -> None: ...

    def announce(self, lane: str) -> None:
        self.lanes.append(lane)

    def hear(self, name: str, listener: Callable[[bytes], None]) -> None:
        self._listeners.append((name, listener))

    def signal(self, name: str, content: bytes = b"") -> None:
        for other in self.others:
            for heard, listener in other._listeners:
                if heard == name:
                    listener(content)

    async def stop(self) -> None: ...

    async def check(self) -> str | None:
        return None
