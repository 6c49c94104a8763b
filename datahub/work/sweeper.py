"""What each hub looks after by itself: its heartbeat, items that are due, hubs that died, and its lanes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import uniform

from sqlalchemy import Connection, select, update
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from datahub.errors import NoSpace, Unavailable
from datahub.kit.aio import Task, gather, sleep, within
from datahub.work import ledger, presence
from datahub.work.lane import Floor, Lane
from datahub.work.presence import BEAT, DEAD_AFTER, MISSED, Hub
from datahub.work.tables import DELAYED, PARKED, READY, RECOVERED, timed, work

__all__ = ["Sweeper"]

log = Logger()

EVERY = 1.0
BATCH = 1000
DEADLINE = "deadline"
"""The note of a parked item whose time ran out."""


class Sweeper:
    """Keeps this hub's lanes going and takes over from hubs that died; `start` to `stop` it owns all of it.

    ``alone`` says that no other daemon can use the database (SQLite): then a beat that could not be
    written endangers nobody, and work goes on.
    """

    def __init__(self, floor: Floor, me: Hub, lanes: Sequence[Lane], *, alone: bool) -> None:
        self._floor = floor
        self._me = me
        self._lanes = {lane.name: lane for lane in lanes}
        self._alone = alone
        self._seen: dict[str, tuple[int, float]] = {}
        self._strays: set[int] = set()
        self._last_beat = 0.0
        self._tasks: list[Task] = []

    def start(self) -> None:
        """Open the lanes and begin to look after them."""
        self._last_beat = self._floor.reactor.seconds()
        for lane in self._lanes.values():
            lane.open()
        self._tasks = [Task("heartbeat", self._beat_for_ever()), Task("sweep", self._sweep_for_ever())]

    async def stop(self) -> None:
        """Close the lanes, give back what runs and remove this hub's row."""
        for task in self._tasks:
            await task.stop()
        await gather(*(lane.close() for lane in self._lanes.values()))
        try:
            lanes = await self._floor.store.run("leave", partial(presence.take_back, owner=self._me.owner))
        except (Unavailable, NoSpace) as error:
            log.warn("the next start will take back this hub's work: {error}", error=str(error))
            return
        for lane in lanes:
            self._floor.queue.announce(lane)

    async def _beat_for_ever(self) -> None:
        while True:
            await sleep(BEAT, self._floor.reactor)
            try:
                await within(BEAT, self.beat(), self._floor.reactor, "the heartbeat")
            except CancelledError:
                raise
            except (Unavailable, NoSpace, TimeoutError) as error:
                self._missed(str(error))
            except Exception:
                log.failure("the heartbeat met an internal fault; it goes on")
                self._missed("an internal fault")

    async def beat(self) -> None:
        """Write our heartbeat, and take back what hubs hold that no longer write theirs."""
        await self._floor.store.run("beat", partial(presence.beat, me=self._me, clock=self._floor.clock))
        self._last_beat = self._floor.reactor.seconds()
        for lane in self._lanes.values():
            lane.open()
        await self._bury(await self._floor.store.read("beats", presence.beats))

    def _missed(self, reason: str) -> None:
        silent = self._floor.reactor.seconds() - self._last_beat
        log.warn("no heartbeat for {silent:.0f} s: {reason}", silent=silent, reason=reason)
        if silent >= MISSED and not self._alone:
            log.warn("work stops here until the database answers: other hubs will take it over")
            for lane in self._lanes.values():
                lane.halt()

    async def _bury(self, beats: dict[str, int]) -> None:
        now = self._floor.reactor.seconds()
        self._seen = {
            owner: self._seen[owner] if owner in self._seen and self._seen[owner][0] == beat else (beat, now)
            for owner, beat in beats.items()
            if owner != self._me.owner
        }
        for owner, (_, since) in list(self._seen.items()):
            if now - since >= DEAD_AFTER:
                lanes = await self._floor.store.run("bury a hub", partial(presence.take_back, owner=owner))
                log.warn("hub {owner} is gone; its work goes on here or elsewhere", owner=owner)
                self._announce(lanes)

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except CancelledError:
                raise
            except (Unavailable, NoSpace) as error:
                log.debug("no sweep: {error}", error=str(error))
            except Exception:
                log.failure("a sweep met an internal fault; the next one follows")
            await sleep(EVERY * uniform(0.75, 1.25), self._floor.reactor)

    async def sweep(self) -> None:
        """Make ready what is due, stop what is cancelled, and look at every lane."""
        now = self._floor.clock.now()
        if await self._floor.store.read("anything due", partial(_anything_due, now=now)):
            self._announce(await self._floor.store.run("make ready what is due", partial(_wake, now=now)))
        await self._mind_own(await self._floor.store.read("own work", partial(_held_by, owner=self._me.owner)))
        for lane in self._lanes.values():
            await lane.look()

    async def _mind_own(self, held: dict[int, tuple[str, int, str | None]]) -> None:
        """Stop what is cancelled; give back what is ours by the ledger only.

        That is what a commit of unknown outcome left to us without our knowing, and what began here but whose end
        could not be written: such a one is marked as after a death, for not every step may run twice.
        """
        running = {number for lane in self._lanes.values() for number in lane.running}
        for number, (lane, _, note) in held.items():
            if number in running and note == ledger.CANCEL:
                self._lanes[lane].interrupt(number)
        strays = held.keys() - running
        if lost := strays & self._strays:
            given = {(number, held[number][1]) for number in lost}
            begun = given & {each for lane in self._lanes.values() for each in lane.unsettled}
            back = partial(_give_back, owner=self._me.owner, fresh=given - begun, begun=begun)
            await self._floor.store.run("give back strays", back)
            for each in self._lanes.values():
                each.unsettled -= begun
        self._strays = strays - lost

    def _announce(self, lanes: Sequence[str]) -> None:
        for lane in lanes:
            self._floor.queue.announce(lane)


def _anything_due(connection: Connection, now: int) -> bool:
    due = select(work.c.id).where(timed, work.c.due <= now).limit(1)
    return connection.execute(due).first() is not None


def _wake(connection: Connection, now: int) -> list[str]:
    """Make ready up to `BATCH` delayed and parked items whose time has come; the lanes concerned."""
    lanes: set[str] = set()
    for state, note in ((DELAYED, None), (PARKED, DEADLINE)):
        due = select(work.c.id, work.c.lane).where(timed, work.c.state == state, work.c.due <= now)
        found = connection.execute(due.order_by(work.c.due).limit(BATCH).with_for_update(skip_locked=True)).all()
        if found:
            numbers = [row.id for row in found]
            connection.execute(update(work).where(work.c.id.in_(numbers)).values(state=READY, due=None, note=note))
            lanes.update(row.lane for row in found)
    return sorted(lanes)


def _held_by(connection: Connection, owner: str) -> dict[int, tuple[str, int, str | None]]:
    """Lane, attempt and note of what ``owner`` holds, by id."""
    held = select(work.c.id, work.c.lane, work.c.attempt, work.c.note).where(work.c.owner == owner)
    return {row.id: (row.lane, row.attempt, row.note) for row in connection.execute(held)}


def _give_back(connection: Connection, owner: str, fresh: set[tuple[int, int]], begun: set[tuple[int, int]]) -> None:
    # A claim that nobody heard of keeps the note it found: it may be that of a death before.
    for items, values in ((fresh, {}), (begun, {"note": RECOVERED})):
        mine = (work.c.owner == owner, work.c.id.in_([number for number, _ in items]))
        connection.execute(update(work).where(*mine).values(state=READY, owner=None, **values))
