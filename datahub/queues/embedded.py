"""The queue of a hub that is alone: an announcement wakes this very process."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from datahub.kit.aio import Task, sleep
from datahub.queues import Listener
from datahub.queues.ear import Ear

__all__ = ["EmbeddedQueue"]


class EmbeddedQueue:
    """Calls the listeners of this process; what is announced while they are busy or full is one look."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._ears: dict[str, Ear] = {}
        self._bells: dict[str, Bell] = {}
        self._tasks: list[Task] = []

    def listen(self, lane: str, listener: Listener) -> None:
        """Call ``listener`` for every announcement of ``lane``."""
        self._ears[lane] = Ear(lane, listener, self._clock)
        self._bells[lane] = Bell()

    def start(self) -> None:
        """Begin to call the listeners."""
        self._tasks = [Task(f"the queue of lane {lane}", self._serve(lane)) for lane in self._ears]

    def announce(self, lane: str) -> None:
        """Wake the lane's listener in a later turn of the reactor; a lane that nobody works on here is nothing."""
        bell = self._bells.get(lane)
        if bell is not None:
            bell.ring()

    def hear(self, name: str, listener: Callable[[bytes], None]) -> None:
        """There is no other hub."""

    def signal(self, name: str, content: bytes = b"") -> None:
        """There is no other hub."""

    async def stop(self) -> None:
        """Call no listener any more and wait, within bounds, for the looks under way."""
        for task in self._tasks:
            await task.stop()
        for ear in self._ears.values():
            await ear.stop()

    async def check(self) -> str | None:
        """Nothing can be away."""
        return None

    async def _serve(self, lane: str) -> None:
        ear, bell = self._ears[lane], self._bells[lane]
        while True:
            await bell.rung()
            # A turn later all that this turn still announces is the same look.
            await sleep(0, self._clock)
            bell.hush()
            while await ear.look() is False:
                await ear.room()
                bell.hush()


class Bell:
    """May be rung any number of times; who waits is woken once."""

    def __init__(self) -> None:
        self._ringing = False
        self._waiting: Deferred[None] | None = None

    def ring(self) -> None:
        """Wake who waits, or spare the next one the wait."""
        self._ringing = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    def hush(self) -> None:
        """Forget the ringing so far."""
        self._ringing = False

    async def rung(self) -> None:
        """Return when it rings."""
        if not self._ringing:
            self._waiting = Deferred()
            await self._waiting
