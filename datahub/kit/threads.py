"""Named pools of threads, one for each purpose, so that slow disks never delay the database."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from datahub.kit.aio import start

__all__ = ["InlinePool", "Pool", "ReactorPool", "outlasting", "stoppable", "taking"]

log = Logger()
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
    return await outlasting(start(pool.run(work, stop)), stop.set)


async def outlasting(working: Deferred[T], cancelled: Callable[[], None] = lambda: None) -> T:
    """Wait until ``working`` has ended, also when cancelled: then ``cancelled`` is called, and `CancelledError` raised.

    ``working`` itself is not cancelled: it is what a thread does.
    """
    outcomes: list[Any] = []
    waiting: list[Deferred[None]] = []
    left = False

    def hand_over(outcome: Any) -> None:
        outcomes.append(outcome)
        for each in waiting:
            each.callback(None)

    working.addBoth(hand_over)
    while not outcomes:
        waiting[:] = [Deferred()]
        try:
            await waiting[0]
        except CancelledError:
            # He may be cancelled again, by somebody else, before the thread has noticed the first time.
            left = True
            cancelled()
    if left:
        raise CancelledError
    if isinstance(outcomes[0], Failure):
        outcomes[0].raiseException()
    result: T = outcomes[0]
    return result


async def taking(pool: Pool, work: Callable[[], T], drop: Callable[[T], None]) -> T:
    """Run ``work`` in ``pool``; if the caller is cancelled meanwhile, ``drop`` gets its result: open files, say.

    Unlike with `outlasting`, he doesn't wait for the thread; ``drop`` is called in one, too.
    """
    left = False

    def leave(_: Deferred[T]) -> None:
        nonlocal left
        left = True

    outer: Deferred[T] = Deferred(leave)

    def hand_over(outcome: T | Failure) -> None:
        if not left:
            outer.callback(outcome)
        elif not isinstance(outcome, Failure):
            start(pool.run(drop, outcome)).addErrback(_log_drop)

    start(pool.run(work)).addBoth(hand_over)
    return await outer


def _log_drop(failure: Failure) -> None:
    log.failure("what nobody waited for any more could not be let go of", failure=failure)
