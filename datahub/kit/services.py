"""The life cycle of parts: started in order, stopped in reverse, one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.errors import NoSpace, Unavailable
from datahub.kit.aio import Task, sleep, within

__all__ = ["Part", "Repeating", "Sequence"]

log = Logger()


class Part(Protocol):
    """Something that runs from start to stop."""

    def start(self) -> None:
        """Begin; raises `datahub.errors.StartError` when that is impossible."""

    async def stop(self) -> None:
        """End, and leave nothing behind."""


class Sequence:
    """Parts that stand on those before them.

    Twisted's MultiService stops all at once, so that the store is gone while requests still end.
    """

    def __init__(self, reactor: IReactorTime, patience: float) -> None:
        self._reactor = reactor
        self._patience = patience
        self._started: list[tuple[str, Part]] = []

    def start(self, name: str, part: Part) -> None:
        """Start ``part``, to be stopped before all that were started earlier."""
        part.start()
        self.add(name, part)

    def add(self, name: str, part: Part) -> None:
        """Take over a part that runs already."""
        self._started.append((name, part))

    async def stop(self) -> None:
        """Stop all, each within ``patience`` seconds; one that fails does not keep the others from it."""
        while self._started:
            name, part = self._started.pop()
            try:
                await within(self._patience, part.stop(), self._reactor, f"stopping {name}")
            except CancelledError:
                raise
            except Exception:
                log.failure("{name} did not stop as it should", name=name)


class Repeating:
    """Calls ``work`` at once and then every ``every`` seconds, also after a call that failed."""

    def __init__(self, name: str, every: float, work: Callable[[], Awaitable[object]], reactor: IReactorTime) -> None:
        self._name = name
        self._every = every
        self._work = work
        self._reactor = reactor
        self._task: Task | None = None

    def start(self) -> None:
        """Begin with the first call."""
        self._task = Task(self._name, self._for_ever())

    async def stop(self) -> None:
        """Call no more."""
        if self._task is not None:
            await self._task.stop()

    async def _for_ever(self) -> None:
        while True:
            try:
                await self._work()
            except CancelledError:
                raise
            except (Unavailable, NoSpace, TimeoutError) as error:
                log.warn("{name}: {error}", name=self._name, error=str(error))
            except Exception:
                log.failure("{name} met an internal fault; it goes on", name=self._name)
            await sleep(self._every, self._reactor)
