"""Very many deadlines for the price of one timer: each may be half a second late, and none is early.

A timer of the reactor for each of ten thousand connections would keep it busy with nothing but its heap. txaio's
batched timers, made for this, search a whole batch for each deadline that is cancelled, call what was cancelled in the
meantime, and know one reactor only (docs/decisions/0040).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["Deadline", "Deadlines", "coarse"]

log = Logger()

STEP = 0.5


class Deadline:
    """A call that is to come; as Twisted's, but it can't be put off."""

    __slots__ = ("_arguments", "_function", "_number", "_owner")

    def __init__(
        self, owner: Deadlines, number: int, function: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        self._owner: Deadlines | None = owner
        self._number = number
        self._function = function
        self._arguments = arguments

    def active(self) -> bool:
        """Whether the call is still to come."""
        return self._owner is not None

    def cancel(self) -> None:
        """Call nothing; harmless when it is over."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.forget(self, self._number)

    def fire(self) -> None:
        """Make the call, unless it was cancelled."""
        if self._owner is None:
            return
        self._owner = None
        try:
            self._function(*self._arguments)
        except Exception:
            log.failure("a deadline ended in a fault")


def coarse(clock: IReactorTime) -> IReactorTime:
    """Deadlines by ``clock``, for those who take a reactor's time and ask it for ``seconds`` and ``callLater`` only."""
    return cast(IReactorTime, Deadlines(clock))


class Deadlines:
    """Stands where a reactor's time does, for what need not be exact; it rests while nothing waits."""

    def __init__(self, clock: IReactorTime, step: float = STEP) -> None:
        self._clock = clock
        self._step = step
        self._batches: dict[int, dict[Deadline, None]] = {}
        self._next: IDelayedCall | None = None

    def seconds(self) -> float:
        """The clock's time."""
        return self._clock.seconds()

    def callLater(  # noqa: N802 - Twisted's name
        self, delay: float, function: Callable[..., object], *arguments: Any
    ) -> Deadline:
        """Call ``function`` after ``delay`` seconds, at most half a second later than that."""
        number = int((self._clock.seconds() + delay) / self._step) + 1
        deadline = Deadline(self, number, function, arguments)
        self._batches.setdefault(number, {})[deadline] = None
        self._wait()
        return deadline

    def forget(self, deadline: Deadline, number: int) -> None:
        """Take a cancelled deadline out of its batch."""
        batch = self._batches.get(number)
        if batch is None:
            return
        batch.pop(deadline, None)
        if not batch:
            del self._batches[number]
            self._rest()

    def _rest(self) -> None:
        if not self._batches and self._next is not None:
            self._next.cancel()
            self._next = None

    def _tick(self) -> None:
        self._next = None
        now = int(self._clock.seconds() / self._step)
        for number in sorted(number for number in self._batches if number <= now):
            for each in self._batches.pop(number, {}):
                each.fire()
        if self._batches:
            self._wait()

    def _wait(self) -> None:
        if self._next is None:
            now = self._clock.seconds()
            self._next = self._clock.callLater((int(now / self._step) + 1) * self._step - now, self._tick)
