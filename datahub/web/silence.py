"""How long a connection may keep the hub waiting: for a request, for its end, or for the answer to be read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from datahub.kit.deadlines import Deadline, Deadlines

__all__ = ["SLOWEST", "Silence", "unsent"]

SLOWEST = 1024
"""Bytes a second: who sends a request more slowly, after the time for idling, holds a connection for nothing."""

LOOKS = 4
"""How often within the time allowed it is looked whether an answer is being read."""


class Silence:
    """Watches one connection with one deadline, however much goes on there.

    ``idle`` calls for its end when no request came for ``limit`` seconds; ``slow`` when one that has begun does not get
    on, or only by drops; ``stalled`` when nothing of an answer was taken for that long: what was ``sent`` in all, less
    what is ``unsent``, has not become more. The latter alone tells nothing: many answers are alike, and a buffer may be
    as full each time it is looked at though all goes well.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        limit: float,
        unsent: Callable[[], int],
        sent: Callable[[], int],
        *,
        idle: Callable[[], None],
        slow: Callable[[], None],
        stalled: Callable[[], None],
    ) -> None:
        self._deadlines = deadlines
        self._limit = limit
        self._unsent = unsent
        self._sent = sent
        self._idle = idle
        self._slow = slow
        self._stalled = stalled
        self._waiting = True
        self._received = 0
        self._since = self._begun = self._heard = self._taken = deadlines.seconds()
        self._left = self._read = 0
        self._look: Deadline | None = deadlines.callLater(limit, self._look_at_it)

    def wait(self) -> None:
        """A request is waited for from now on."""
        self._waiting = True
        self._received = 0
        self._since = self._heard = self._deadlines.seconds()

    def answer(self) -> None:
        """A request is here whole: the hub may take its time."""
        self._waiting = False

    def heard(self, count: int) -> None:
        """Take note of ``count`` bytes that came."""
        self._heard = self._deadlines.seconds()
        if not self._received:
            self._begun = self._heard
        self._received += count

    def end(self) -> None:
        """The connection has gone."""
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _look_at_it(self) -> None:
        now = self._deadlines.seconds()
        unsent = self._left = self._unsent()
        read = self._sent() - unsent
        if read != self._read or not unsent:
            self._read, self._taken = read, now
        end, due = self._end_and_due()
        if due > now:
            longest = self._limit / LOOKS if unsent or not self._waiting else self._limit
            self._look = self._deadlines.callLater(min(due - now, longest), self._look_at_it)
            return
        self._look = None
        end()

    def _end_and_due(self) -> tuple[Callable[[], None], float]:
        if self._left or not self._waiting:
            return self._stalled, self._taken + self._limit
        if not self._received:
            return self._idle, self._since + self._limit
        return self._slow, min(self._heard, self._begun + self._received / SLOWEST) + self._limit


def unsent(transport: Any) -> int:
    """Bytes of answers that the other side has not taken: Twisted's, and under TLS those of the connection below.

    And the kernel's: it takes megabytes, and somebody who reads slowly takes nothing else for minutes. Twisted has no
    public name for its own; if these are ever gone, nothing is ever said to stall.
    """
    count = 0
    while transport is not None:
        count += len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
        count += getattr(transport, "_tempDataLen", 0)
        below = getattr(transport, "transport", None)
        if below is None:
            count += _queued(getattr(transport, "socket", None))
        transport = below
    return count


def _queued(connection: Any) -> int:
    """Bytes that the kernel has of a socket and the other side has not confirmed (SIOCOUTQ, tcp(7) and unix(7))."""
    try:
        return int.from_bytes(ioctl(connection, TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, TypeError, ValueError):
        return 0
