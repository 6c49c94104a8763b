"""One step of one pipeline: slots that take items from the ledger, run them, and settle what came out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.errors import NoSpace, Superseded, Unavailable
from datahub.kit.aio import Task, gather, sleep
from datahub.kit.clock import HubClock
from datahub.queues import Queue
from datahub.store import Store
from datahub.work import Done, Fail, Item, Next, Outcome, Park, Retry, ledger

__all__ = ["Floor", "Lane", "Step", "write"]

log = Logger()
T = TypeVar("T")

SETTLE_AGAIN = 1.0
"""Seconds between tries to settle while the database is away."""

Begin = Callable[[Connection, list[Item]], Mapping[str, Any]]


def forgotten(_: Item) -> None:
    """Nothing was remembered."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a lane does with an item.

    ``begin`` runs in the transaction of the claim: it moves the records on and reads them, by subject.
    ``run`` does the work. ``fault`` says what becomes of an item whose ``run`` raised.
    """

    lane: str
    slots: int
    begin: Begin
    run: Callable[[Item], Awaitable[Outcome]]
    fault: Callable[[Item, Exception], Outcome]
    settled: Callable[[Item], object] = forgotten
    """Told when this attempt is over, whatever came of it: nothing needs to be remembered of it any more."""


def nobody() -> None:
    """Nobody wants to know of changes."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What all lanes of a daemon stand on."""

    store: Store
    queue: Queue
    clock: HubClock
    reactor: IReactorTime
    owner: str
    changed: Callable[[], None] = nobody
    """Called after a commit that changed records."""


@dataclass(slots=True)
class Run:
    """An item under way; once it is being stopped or settled it is not to be stopped any more."""

    item: Item
    task: Task | None = None
    ending: bool = False


class Lane:
    """Runs the items of one lane, at most ``step.slots`` at once; the ledger keeps the cluster's limit."""

    def __init__(self, step: Step, floor: Floor) -> None:
        self.name = step.lane
        self._step = step
        self._floor = floor
        self._runs: dict[int, Run] = {}
        self._rooms: list[Deferred[None]] = []
        self._looker: Task | None = None
        self._wanted = False
        self._open = False
        self._reserved = 0
        self.unsettled: set[tuple[int, int]] = set()
        """Id and attempt of what began here and whose end is not written, running or not."""

    def open(self) -> None:
        """Begin to claim."""
        self._open = True

    @property
    def running(self) -> dict[int, Item]:
        """The items under way here, by id."""
        return {number: run.item for number, run in self._runs.items()}

    @property
    def _free(self) -> int:
        return self._step.slots - len(self._runs) - self._reserved if self._open else 0

    async def run(self, name: str, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which enqueues here, as a transaction called ``name``; claim in the same one if there is room.

        So what need not wait costs one commit less. Which item is taken the ledger decides, as ever.
        """
        if self._free <= 0:
            return await self._floor.store.run(name, work)
        self._reserved += 1
        try:
            value, items = await self._floor.store.run(name, lambda each: (work(each), self._claim(1, each)))
        finally:
            self._reserved -= 1
        for item in items:
            self._take_up(item)
        return value

    async def look(self) -> bool:
        """Claim what there is room for; whether there is room for more.

        Looks at the same time become one. Who awaits may leave: a claim once begun is finished.
        """
        await self._look_around().ended()
        return self._free > 0

    def _look_around(self) -> Task:
        self._wanted = True
        if self._looker is None or not self._looker.running:
            self._looker = Task(f"look at {self.name}", self._claim_while_wanted())
        return self._looker

    async def _claim_while_wanted(self) -> None:
        while self._wanted and self._free > 0:
            # One turn of the reactor lets the looks of all who end together become one claim.
            await sleep(0, self._floor.reactor)
            self._wanted = False
            free = self._free
            self._reserved += free
            try:
                items = await self._floor.store.run(f"claim {self.name}", partial(self._claim, free))
            except (Unavailable, NoSpace) as error:
                log.debug("{lane} can't be looked at: {error}", lane=self.name, error=str(error))
                return
            finally:
                self._reserved -= free
            for item in items:
                self._take_up(item)
            if items:
                self._floor.changed()

    def _claim(self, count: int, connection: Connection) -> list[Item]:
        items = ledger.claim(connection, self.name, count, self._floor.owner)
        if not items:
            return []
        records = self._step.begin(connection, items)
        return [replace(item, record=records.get(item.subject)) for item in items]

    async def room(self) -> None:
        """Wait until a slot is free."""
        if self._free > 0:
            return
        waiting: Deferred[None] = Deferred(self._rooms.remove)
        self._rooms.append(waiting)
        await waiting

    def _take_up(self, item: Item) -> None:
        # Entered before its coroutine starts: that may end at once.
        run = self._runs[item.id] = Run(item)
        run.task = Task(f"{self.name} of {item.subject}", self._work(run))

    async def _work(self, run: Run) -> None:
        try:
            outcome = await self._outcome(run.item)
            run.ending = True
            await self._settle(run.item, outcome)
        finally:
            self._step.settled(run.item)
            self._leave(run.item)

    async def _outcome(self, item: Item) -> Outcome | None:
        """What the step says; None when it was stopped and the item is to be given back."""
        if item.record is None:
            log.warn("{lane} has work for {subject}, which is not there", lane=self.name, subject=item.subject)
            return Done()
        if not self._open:
            return None
        self.unsettled.add((item.id, item.attempt))
        try:
            return await self._step.run(item)
        except (CancelledError, Superseded):
            return None
        except Exception as error:
            return self._step.fault(item, error)

    async def _settle(self, item: Item, outcome: Outcome | None) -> None:
        """Write the outcome, however long the database is away; when the hub stops, its next start recovers."""
        while True:
            try:
                await self._floor.store.run(f"settle {self.name}", partial(write, self._floor, item, outcome))
                break
            except Superseded as error:
                log.info("{error}", error=str(error))
                if outcome is None:
                    self.unsettled.discard((item.id, item.attempt))
                    return
                # Its record was changed meanwhile (cancelled): the step is to see that. If the item is
                # another's by now, giving it back is refused, too.
                outcome = None
            except (Unavailable, NoSpace) as error:
                log.warn(
                    "{lane} of {subject} waits to be settled: {error}",
                    lane=self.name,
                    subject=item.subject,
                    error=str(error),
                )
                if not self._open:
                    return
                await sleep(SETTLE_AGAIN, self._floor.reactor)
        self.unsettled.discard((item.id, item.attempt))
        self._floor.changed()
        if isinstance(outcome, Next):
            self._floor.queue.announce(outcome.lane)

    def _leave(self, item: Item) -> None:
        self._runs.pop(item.id, None)
        rooms, self._rooms = self._rooms, []
        for waiting in rooms:
            waiting.callback(None)
        if self._open:
            self._look_around()

    def interrupt(self, number: int) -> None:
        """Stop item ``number`` if it runs here: its step is cancelled, and the item given back when that has ended."""
        run = self._runs.get(number)
        if run is not None and run.task is not None and not run.ending:
            run.ending = True
            run.task.cancel()

    def halt(self) -> None:
        """Claim no more, and stop all that runs; it does not wait, neither for a slow disk nor for the database."""
        self._open = False
        for number in list(self._runs):
            self.interrupt(number)

    async def close(self) -> None:
        """Halt, and wait until nothing goes on here."""
        self.halt()
        if self._looker is not None:
            await self._looker.ended()
        await gather(*(run.task.ended() for run in self._runs.values() if run.task is not None))


def write(floor: Floor, item: Item, outcome: Outcome | None, connection: Connection) -> None:
    """Settle ``item``, which ``floor``'s hub holds, in the transaction of its record; None gives it back."""
    owner = floor.owner
    match outcome:
        case None:
            ledger.give_back(connection, item, owner)
        case Retry(after, record):
            ledger.retry(connection, item, owner, floor.clock.now() + after)
            record(connection)
        case Park(until, record):
            ledger.park(connection, item, owner, until)
            record(connection)
        case Next(lane, record, cost):
            ledger.settle(connection, item, owner)
            record(connection)
            ledger.enqueue(connection, lane, item.subject, item.submitter, cost=cost)
        case Done(record) | Fail(record):
            ledger.settle(connection, item, owner)
            record(connection)
