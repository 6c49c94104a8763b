"""What is going on at the listeners together: the connection limit, and the drain at a stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.kit.aio import within
from datahub.kit.deadlines import Deadlines

__all__ = ["Crowd", "Traffic"]

log = Logger()
T = TypeVar("T")

# How long answers that are written may take to reach their callers, and how often a full house is reported; seconds.
FLUSH = 1.0
REPORT_EVERY = 1.0


class Crowd(Generic[T]):
    """A set one can wait on until it is empty."""

    def __init__(self) -> None:
        self._members: set[T] = set()
        self._waiting: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._members))

    def add(self, member: T) -> None:
        """Count ``member`` in."""
        self._members.add(member)

    def discard(self, member: T) -> None:
        """Count ``member`` out; who waits for an empty house is told when it was the last."""
        self._members.discard(member)
        if not self._members:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)

    async def gone(self) -> None:
        """Wait until nobody is left."""
        while self._members:
            left: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(left)
            await left


class Connection(Protocol):
    """What the traffic knows of a connection."""

    def close(self) -> None:
        """Close when what was written is sent."""

    def abort(self) -> None:
        """Close now."""


class Traffic:
    """Connections, and requests with the operations they began, of all listeners."""

    def __init__(self, limit: int, clock: IReactorTime) -> None:
        self.draining = False
        self.connections: Crowd[Connection] = Crowd()
        self.requests: Crowd[object] = Crowd()
        self.deadlines = Deadlines(clock)
        self._limit = limit
        self._clock = clock
        self._refused = 0
        self._reported: float | None = None

    def admits(self) -> bool:
        """Whether one more connection fits; one that does not is counted, and the log hears of it once a second."""
        if len(self.connections) < self._limit:
            return True
        self._refused += 1
        now = self._clock.seconds()
        if self._reported is None or abs(now - self._reported) >= REPORT_EVERY:
            log.warn(
                "all {limit} connections are taken: {refused} refused; [limits] connections says how many may be",
                limit=self._limit,
                refused=self._refused,
            )
            self._reported, self._refused = now, 0
        return False

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Count an operation that goes on even if its caller leaves."""
        token = object()
        self.requests.add(token)
        try:
            yield
        finally:
            self.requests.discard(token)

    async def drain(self, seconds: float) -> None:
        """Let requests under way end for at most ``seconds``, then close every connection."""
        self.draining = True
        if not await self._emptied(self.requests, seconds):
            log.warn("{count} requests are cut off after {seconds} s", count=len(self.requests), seconds=seconds)
        for connection in self.connections:
            connection.close()
        if not await self._emptied(self.connections, FLUSH):
            for connection in self.connections:
                connection.abort()

    async def _emptied(self, crowd: Crowd[Any], seconds: float) -> bool:
        if not len(crowd):
            return True
        try:
            await within(seconds, crowd.gone(), self._clock, "the drain")
        except TimeoutError:
            return False
        return True
