"""Waiting, done carefully: what `async def` on Deferreds needs beside the language."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

__all__ = ["Task", "cancellable", "fired", "gather", "leave", "shield", "sleep", "start", "within"]

log = Logger()
T = TypeVar("T")


def start(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run ``coroutine`` now, up to its first wait; the caller owns the Deferred."""
    return Deferred.fromCoroutine(coroutine)


def shield(coroutine: Coroutine[Any, Any, T], what: str) -> Deferred[T]:
    """Run ``coroutine`` to its end even if the one who awaits it is cancelled.

    A failure that nobody is left to hear is logged with ``what``, the name of the work.
    """
    inner = start(coroutine)
    left = False

    def leave(_: Deferred[T]) -> None:
        nonlocal left
        left = True

    outer: Deferred[T] = Deferred(leave)

    def hand_over(result: T | Failure) -> None:
        if not left:
            outer.callback(result)
        elif isinstance(result, Failure):
            log.failure("{what} failed after its caller had left", failure=result, what=what)

    inner.addBoth(hand_over)
    return outer


async def within(seconds: float, awaitable: Awaitable[T], clock: IReactorTime, what: str) -> T:
    """Await ``awaitable``, cancelling it after ``seconds``.

    Raises the builtin `TimeoutError`, naming ``what``; Twisted's own is another class.
    """
    deferred = awaitable if isinstance(awaitable, Deferred) else start(_awaited(awaitable))
    deferred.addTimeout(seconds, clock)
    try:
        return await deferred
    except DeferredTimeoutError:
        raise TimeoutError(f"{what} took longer than {seconds:g} s") from None


def cancellable(asking: Deferred[Any]) -> Deferred[Any]:
    """``asking``, except that when it is cancelled it fails with `CancelledError`: an agent's may tell of an outage."""
    left = False

    def leave(_: Deferred[Any]) -> None:
        nonlocal left
        left = True
        asking.cancel()

    outer: Deferred[Any] = Deferred(leave)

    def hand_over(result: Any) -> None:
        if not left:
            outer.callback(result)

    asking.addBoth(hand_over)
    return outer


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def gather(*coroutines: Coroutine[Any, Any, T]) -> list[T]:
    """Run all at once and give their results in order; the first failure cancels the others."""
    running = [start(each) for each in coroutines]
    try:
        return await gatherResults(running, consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()
        raise
    finally:
        for each in running:
            each.cancel()


def sleep(seconds: float, clock: IReactorTime) -> Deferred[None]:
    """Wait ``seconds``; cancel it to wake early with `CancelledError`."""
    waiting: Deferred[None] = Deferred(lambda _: call.cancel())
    call = clock.callLater(seconds, waiting.callback, None)
    return waiting


def fired(signal: Deferred[None], seconds: float, clock: IReactorTime) -> Deferred[bool]:
    """Whether ``signal`` fires within ``seconds``; unlike `within` this leaves it alone, to be waited for again."""
    waiting: Deferred[bool] = Deferred(lambda _: call.cancel())
    call = clock.callLater(seconds, waiting.callback, False)

    def wake(_: object) -> None:
        if call.active():
            call.cancel()
            waiting.callback(True)

    signal.addCallback(wake)
    return waiting


def leave(signal: Deferred[None]) -> None:
    """Wait for ``signal`` no longer; that it is cancelled is nothing to be told of."""
    signal.addErrback(lambda failure: failure.trap(CancelledError) and None)
    signal.cancel()


class Task:
    """A coroutine with an owner: whoever makes it stops it; its failure is logged with its name."""

    def __init__(self, name: str, coroutine: Coroutine[Any, Any, object]) -> None:
        self.name = name
        self._ended: list[Deferred[None]] = []
        self._running: Deferred[object] | None = None
        running = start(coroutine)
        if not running.called:
            self._running = running
        running.addErrback(self._report).addBoth(self._finish)

    @property
    def running(self) -> bool:
        """Whether the coroutine has not ended yet."""
        return self._running is not None

    def _report(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("{name} ended by a fault", failure=failure, name=self.name)

    def _finish(self, _: object) -> None:
        self._running = None
        waiting, self._ended = self._ended, []
        for each in waiting:
            each.callback(None)

    async def ended(self) -> None:
        """Wait for the coroutine's end."""
        if self._running is None:
            return
        waiting: Deferred[None] = Deferred(self._ended.remove)
        self._ended.append(waiting)
        await waiting

    def cancel(self) -> None:
        """Cancel the coroutine, which may take its time to end."""
        if self._running is not None:
            self._running.cancel()

    async def stop(self) -> None:
        """Cancel the coroutine and wait for its end."""
        self.cancel()
        await self.ended()
