"""Time that does not jump: the reactor's timers and the milliseconds that work is due by."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

__all__ = ["HubClock", "make_steady", "monotonic", "rfc3339"]


def monotonic() -> float:
    """Seconds that only grow, also while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def make_steady(reactor: Any) -> None:
    """Let ``reactor`` schedule by monotonic time; call it before anything is scheduled.

    Twisted takes the wall clock: set back by an hour, it would hold every timer for an hour.
    """
    reactor.seconds = time.monotonic


def rfc3339(milliseconds: int) -> str:
    """Milliseconds since 1970 as UTC text for people and JSON (RFC 3339), such as ``2026-03-01T09:30:00.250Z``."""
    seconds, rest = divmod(milliseconds, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class HubClock:
    """The cluster's time in integer milliseconds, set by the database and carried on by a monotonic clock.

    `now` is compared with what is due and never jumps; `wall` is for people and follows the database's
    clock when somebody sets that. They differ by an offset that all hubs share (`datahub.work.presence`).
    """

    def __init__(self, steady: Callable[[], float] = monotonic) -> None:
        self._steady = steady
        self._base = 0
        self._offset = 0

    def now(self) -> int:
        """Steady milliseconds, alike on all hubs."""
        return self._base + int(self._steady() * 1000)

    def wall(self) -> int:
        """Milliseconds since 1970 by the database's clock."""
        return self.now() - self._offset

    def set(self, database: int, offset: int) -> None:
        """Take the time from the database: ``database`` is its clock, ``offset`` what the cluster adds to it."""
        self._base += self.drift(database, offset)
        self._offset = offset

    def drift(self, database: int, offset: int) -> int:
        """How far the database's time is ahead of `now`, in milliseconds."""
        return database + offset - self.now()
