"""Named pools of threads, one for each purpose, so that slow disks never delay the database."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from datahub.kit.aio import start

__all__ = ["InlinePool", "Pool", "ReactorPool", "stoppable"]

P = ParamSpec("P")
T = TypeVar("T")


class Pool(Protocol):
    """Where blocking work is done."""

    def start(self) -> None:
        """Take up work."""

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work`` off the reactor's thread and give its result; what it raises is raised here.

        Cancelling does not stop a thread: work that may take long looks at a flag of its own.
        """
        ...

    async def stop(self) -> None:
        """Wait for the work under way and end the threads."""


class ReactorPool:
    """A pool of at most ``size`` threads called ``name`` in stack dumps."""

    def __init__(self, name: str, size: int, reactor: Any) -> None:
        self._reactor = reactor
        self._threads = ThreadPool(minthreads=0, maxthreads=size, name=name)

    def start(self) -> None:
        """Take up work."""
        self._threads.start()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work`` in one of the threads."""
        return await deferToThreadPool(self._reactor, self._threads, work, *args, **kwargs)

    async def stop(self) -> None:
        """Wait for the work under way and end the threads."""
        self._threads.stop()


class InlinePool:
    """Runs the work at once, where it is called: for tests that drive time by hand."""

    def start(self) -> None:
        """Nothing is to be started."""

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work`` now."""
        return work(*args, **kwargs)

    async def stop(self) -> None:
        """Nothing is to be stopped."""


async def stoppable(pool: Pool, work: Callable[[Event], T]) -> T:
    """Run ``work(stop)`` in ``pool``; when cancelled, set ``stop`` and wait until the thread has ended.

    So whoever sees `CancelledError` knows that nothing of the work goes on.
    """
    stop = Event()
    outcomes: list[Any] = []
    waiting: list[Deferred[None]] = []

    def hand_over(outcome: Any) -> None:
        outcomes.append(outcome)
        for each in waiting:
            each.callback(None)

    start(pool.run(work, stop)).addBoth(hand_over)
    while not outcomes:
        waiting[:] = [Deferred()]
        try:
            await waiting[0]
        except CancelledError:
            # He may be cancelled again, by somebody else, before the thread has noticed the first time.
            stop.set()
    if stop.is_set():
        raise CancelledError
    if isinstance(outcomes[0], Failure):
        outcomes[0].raiseException()
    result: T = outcomes[0]
    return result
