"""What a test may not leave behind: calls to come, open ports and sockets, failures that nobody heard of.

trial notices these by itself; pytest-twisted does not.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest_twisted
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

__all__ = ["Watch"]

# Of 0.01 s each: on a busy machine a connection that was cut takes its time to be gone.
TURNS = 200


class Watch:
    """Compares what ``reactor`` holds at the end of a test with what it held at the beginning."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calls = set(reactor.getDelayedCalls())
        self._sockets = _sockets(reactor)
        self._observer = Unheard()
        globalLogPublisher.addObserver(self._observer)

    def close(self) -> list[str]:
        """Stop watching; describe what was left behind, and cancel the calls so that no later test suffers."""
        # The failure of a Deferred is known to be unheard only when it is collected. What was there
        # before the tests is frozen (conftest.py), so this costs well under a millisecond.
        gc.collect()
        for _ in range(TURNS):
            if not self._new_calls() and not self._new_sockets():
                break
            # A connection that was just cut is told so in one of the next turns.
            self._turn()
        globalLogPublisher.removeObserver(self._observer)
        left = []
        for call in self._new_calls():
            left.append(f"a delayed call: {call}")
            call.cancel()
        left += [f"an open socket: {each!r}" for each in self._new_sockets()]
        return left + self._observer.found

    def _new_calls(self) -> list[Any]:
        return [call for call in self._reactor.getDelayedCalls() if call not in self._calls]

    def _new_sockets(self) -> list[Any]:
        return [each for each in _sockets(self._reactor) if not any(each is old for old in self._sockets)]

    def _turn(self) -> None:
        turned: Deferred[None] = Deferred()
        self._reactor.callLater(0.01, turned.callback, None)
        pytest_twisted.blockon(turned)


@implementer(ILogObserver)
class Unheard:
    """Notes the failures of Deferreds that nobody heard of."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        """Look at one line of the log."""
        failure = event.get("log_failure")
        if failure is not None and event.get("log_namespace") == defer.__name__:
            self.found.append(f"a failure that nobody heard: {failure.getTraceback().strip()}")


def _sockets(reactor: Any) -> list[Any]:
    """Give the ports and connections of ``reactor``, without its own waker and signal pipes."""
    own = reactor._internalReaders
    everything = [*reactor.getReaders(), *reactor.getWriters()]
    return list({id(each): each for each in everything if each not in own}.values())
