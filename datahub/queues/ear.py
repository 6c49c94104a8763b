"""One lane's listener as every queue treats it: a look at a time, its faults logged, never cut short."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.kit.aio import sleep, start, within
from datahub.queues import Listener

__all__ = ["Ear"]

log = Logger()
PAUSE = 1.0
PATIENCE = 5.0


class Ear:
    """Lets the listener of ``lane`` look, and stands between it and the loops that come and go."""

    def __init__(self, lane: str, listener: Listener, clock: IReactorTime) -> None:
        self.lane = lane
        self._listener = listener
        self._clock = clock
        self._looking: Deferred[None] | None = None
        self._after: list[Deferred[None]] = []

    async def look(self) -> bool | None:
        """Give the listener's answer: room for more, or full; None when the look failed (it is logged).

        Who is cancelled here leaves; the look itself goes on, because half a claim would lose work.
        """
        await self._quiet()
        answer: Deferred[bool | None] = Deferred()
        looking = start(self._ask(answer))
        if not looking.called:
            self._looking = looking
        return await answer

    async def room(self) -> None:
        """Return when the listener has a free slot; after a pause when it can't say."""
        try:
            await self._listener.room()
        except CancelledError:
            raise
        except Exception:
            log.failure("waiting for room in lane {lane} failed", lane=self.lane)
            await self.pause()

    async def pause(self) -> None:
        """Let a fault pass, so that a listener that fails at once is not called in a tight loop."""
        await sleep(PAUSE, self._clock)

    async def stop(self) -> None:
        """Wait for the look under way; one that takes longer than 5 s is cancelled and left."""
        try:
            await within(PATIENCE, self._quiet(), self._clock, f"a look at lane {self.lane}")
        except TimeoutError as late:
            log.warn("{late}: it is cancelled", late=str(late))
            if self._looking is not None:
                self._looking.cancel()

    async def _ask(self, answer: Deferred[bool | None]) -> None:
        room: bool | None = None
        try:
            room = await self._listener.look()
        except CancelledError:
            log.debug("the look at lane {lane} was cancelled", lane=self.lane)
        except Exception:
            log.failure("a look at lane {lane} failed", lane=self.lane)
        self._looking = None
        if not answer.called:
            answer.callback(room)
        waiting, self._after = self._after, []
        for each in waiting:
            each.callback(None)

    async def _quiet(self) -> None:
        while self._looking is not None:
            ended: Deferred[None] = Deferred()
            self._after.append(ended)
            await ended
