"""Events as they come: numbered, read once, and handed to everybody on this hub who follows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.errors import NoSpace, Unavailable
from datahub.events import Event
from datahub.events.tables import BATCH, Wanted, any_news, find, last, number
from datahub.kit.aio import Task
from datahub.kit.deadlines import coarse
from datahub.store import Store

__all__ = ["Feed"]

log = Logger()

EVERY = 1.0
REMEMBERED = 10_000
PAGE = 500


class Feed:
    """Looks for new events when told of a change on this hub, and each second for those of others.

    The newest are kept in memory, so that any number of followers costs one query.
    """

    def __init__(self, store: Store, reactor: IReactorTime) -> None:
        self._store = store
        self._reactor = reactor
        self.deadlines = coarse(reactor)
        """For the signs of life of those who follow: a thousand of them cost one timer."""
        self._newest: deque[Event] = deque(maxlen=REMEMBERED)
        self._position = 0
        self._waiting: set[Deferred[None]] = set()
        self._changed: dict[str, set[Deferred[None]]] = {}
        self._bell: Deferred[None] | None = None
        self._rung = False
        self._task: Task | None = None
        self._listeners: dict[str, list[Callable[[str], None]]] = {}
        self._looked: float | None = None

    def listen(self, type: str, listener: Callable[[str], None]) -> None:  # noqa: A002 - what it is called in events
        """Call ``listener`` with the subject of each event of that type, from the start of the feed on."""
        self._listeners.setdefault(type, []).append(listener)

    @property
    def blind(self) -> float:
        """For how many seconds it has not been possible to look for events."""
        return inf if self._looked is None else self._reactor.seconds() - self._looked

    def start(self) -> None:
        """Begin behind what was there before."""
        self._task = Task("the feed of events", self._run())

    async def stop(self) -> None:
        """Look no more; who waits is cancelled."""
        if self._task is not None:
            await self._task.stop()
        for each in [*self._waiting, *(each for some in self._changed.values() for each in some)]:
            each.cancel()

    def wake(self) -> None:
        """Look now: something was committed here."""
        self._rung = True
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.callback(None)

    async def after(self, wanted: Wanted) -> tuple[list[Event], int]:
        """The next events that are wanted, at most `PAGE`, and the position to go on behind."""
        seen = self._position
        if self._newest and wanted.after >= self._newest[0].position - 1:
            found = [each for each in self._newest if each.position > wanted.after and _fits(each, wanted)][:PAGE]
        else:
            found = await self._store.read("events", partial(find, wanted=wanted, limit=PAGE))
        reached = found[-1].position if found else wanted.after
        return found, reached if len(found) == PAGE else max(seen, reached)

    @property
    def position(self) -> int:
        """The last event that was seen."""
        return self._position

    def news(self, after: int) -> Deferred[None]:
        """Fires when there are events behind ``after``, at once if there are. `leave` it in the end."""
        waiting: Deferred[None] = Deferred(self._waiting.discard)
        if after < self._position:
            waiting.callback(None)
        else:
            self._waiting.add(waiting)
        return waiting

    def change_of(self, subject: str) -> Deferred[None]:
        """Fires at the next event of ``subject``; ask for it before looking at the record. `leave` it in the end."""
        waiting = self._changed.setdefault(subject, set())
        change: Deferred[None] = Deferred(lambda gone: self._leave(subject, gone))
        waiting.add(change)
        return change

    def _leave(self, subject: str, gone: Deferred[None]) -> None:
        waiting = self._changed.get(subject, set())
        waiting.discard(gone)
        if not waiting:
            self._changed.pop(subject, None)

    def touch(self, subject: str) -> None:
        """Tell those who wait for a change of ``subject`` that one was committed here, before its event is numbered."""
        for each in self._changed.pop(subject, ()):
            if not each.called:
                each.callback(None)

    async def _run(self) -> None:
        started = False
        while True:
            try:
                if not started:
                    self._position = await self._store.read("last event", last)
                    while await self._store.run("number events", number):
                        pass
                    started = True
                await self._look()
                self._looked = self._reactor.seconds()
            except CancelledError:
                raise
            except (Unavailable, NoSpace) as error:
                log.debug("events can't be read: {error}", error=str(error))
            except Exception:
                log.failure("events can't be read")
            await self._rest()

    async def _rest(self) -> None:
        if not self._rung:
            self._bell = Deferred()
            call = self._reactor.callLater(EVERY, self.wake)
            try:
                await self._bell
            finally:
                self._bell = None
                if call.active():
                    call.cancel()
        self._rung = False

    async def _look(self) -> None:
        """Number what is new, read it once, and tell everybody."""
        while await self._store.read("any news", partial(any_news, after=self._position)):
            await self._store.run("number events", number)
            found = await self._store.read("new events", partial(find, wanted=Wanted(self._position), limit=BATCH))
            if not found:
                return
            self._newest.extend(found)
            self._position = found[-1].position
            for each in found:
                for listener in self._listeners.get(each.type, ()):
                    listener(each.subject)
            self._tell({each.subject for each in found})

    def _tell(self, subjects: set[str]) -> None:
        told = [*self._waiting, *(each for subject in subjects for each in self._changed.pop(subject, ()))]
        self._waiting.clear()
        for each in told:
            # Who is told may make another one leave, and wait anew himself.
            if not each.called:
                each.callback(None)


def _fits(event: Event, wanted: Wanted) -> bool:
    return all(
        value is None or value == found
        for value, found in (
            (wanted.type, event.type),
            (wanted.subject, event.subject),
            (wanted.submitter, event.submitter),
        )
    )
