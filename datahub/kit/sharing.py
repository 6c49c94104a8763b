"""One request for all who ask for the same thing at the same time, or shortly afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from datahub.kit.aio import start

__all__ = ["Shared"]

T = TypeVar("T")

TOGETHER: Final = 1


class Shared(Generic[T]):
    """What ``make`` gives, kept for ``ttl`` seconds; what it raises is told to all who wait, and not kept."""

    def __init__(self, make: Callable[[], Awaitable[T]], ttl: float, clock: IReactorTime) -> None:
        self._make = make
        self._ttl = ttl
        self._clock = clock
        self._waiting: list[Deferred[T]] = []
        self._running: Deferred[None] | None = None
        self._kept: tuple[float, T] | None = None

    @property
    def fresh(self) -> T | None:
        """What is kept, if it is not too old."""
        if self._kept is None or self._clock.seconds() - self._kept[0] >= self._ttl:
            return None
        return self._kept[1]

    @property
    def last(self) -> T | None:
        """What was kept last, however old."""
        return None if self._kept is None else self._kept[1]

    @property
    def running(self) -> bool:
        """Whether it is being made."""
        return self._running is not None

    async def get(self) -> T:
        """What is kept, or what is being made, or made now; one who is cancelled leaves the others waiting."""
        fresh = self.fresh
        if fresh is not None:
            return fresh
        crowd = self._waiting
        waiting: Deferred[T] = Deferred(crowd.remove)
        crowd.append(waiting)
        if self._running is None:
            self._running = Deferred()
            start(self._made()).addBoth(self._tell)
        return await waiting

    async def _made(self) -> T:
        return await self._make()

    def _tell(self, result: T | Failure) -> None:
        crowd, self._waiting, self._running = self._waiting, [], None
        if not isinstance(result, Failure):
            self._kept = (self._clock.seconds(), result)
        self._wake(crowd, result)

    def _wake(self, crowd: list[Deferred[T]], result: T | Failure) -> None:
        """Let some go on, and the others in the turns to come: each has work to do, and others wait for the reactor."""
        for each in crowd[:TOGETHER]:
            crowd.remove(each)
            each.callback(result)
        if crowd:
            self._clock.callLater(0, self._wake, crowd, result)
