"""A lane on a floor that tests hold in their hands: its time, its database, and the ends of its steps."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Connection, select
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from datahub.kit.aio import start
from datahub.kit.clock import HubClock
from datahub.work import Item, Outcome, Retry, ledger
from datahub.work.lane import Floor, Lane, Step
from datahub.work.tables import work
from tests.inline import Announcements, InlineStore

__all__ = ["ME", "Ground", "Steps"]

ME = "hub1:aa"


class Steps:
    """The steps of a lane: each item waits until the test ends it."""

    def __init__(self) -> None:
        self.gates: dict[str, Deferred[Outcome]] = {}
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.most = 0
        self.faults: list[Exception] = []
        self.missing: set[str] = set()
        self.clearing: Deferred[None] | None = None
        """While it is set, a step that is cancelled waits for it."""

    def begin(self, _: Connection, items: list[Item]) -> dict[str, str]:
        return {item.subject: f"record of {item.subject}" for item in items if item.subject not in self.missing}

    async def run(self, item: Item) -> Outcome:
        assert item.record == f"record of {item.subject}"
        gate = self.gates[item.subject] = Deferred()
        self.begun.append(item.subject)
        self.most = max(self.most, len(self.gates))
        try:
            return await gate
        except CancelledError:
            self.cancelled.append(item.subject)
            if self.clearing is not None:
                await self.clearing
            raise
        finally:
            del self.gates[item.subject]

    def fault(self, _: Item, error: Exception) -> Outcome:
        self.faults.append(error)
        return Retry(1000)


class Ground:
    """A floor, and lanes on it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = InlineStore()
        self.queue = Announcements()
        hub_clock = HubClock(self.clock.seconds)
        self.floor = Floor(self.store, self.queue, hub_clock, self.clock, ME)

    def lane(self, name: str = "test.one", *, slots: int = 2, steps: Any = None, cluster: int | None = None) -> Lane:
        """Make an open lane."""
        self.store.now(partial(ledger.declare, name=name, slots=cluster))
        steps = steps or Steps()
        lane = Lane(Step(name, slots, steps.begin, steps.run, steps.fault), self.floor)
        lane.open()
        return lane

    def enqueue(self, *subjects: str, lane: str = "test.one", submitter: str = "alice") -> None:
        for subject in subjects:
            self.store.now(partial(ledger.enqueue, name=lane, subject=subject, submitter=submitter))

    def look(self, lane: Lane) -> Deferred[bool]:
        """Let the lane look, to its end if nothing holds the database."""
        looking = start(lane.look())
        self.clock.advance(0)
        return looking

    def rows(self, *columns: str) -> list[Any]:
        """Give the ledger's items in the order of their ids: state alone, or some columns."""
        wanted = [work.c[each] for each in columns or ("state",)]
        found = self.store.now(lambda c: c.execute(select(*wanted).order_by(work.c.id)).all())
        return [tuple(each) if columns else each[0] for each in found]

    def end(self) -> None:
        """Assert that nothing is left to come, and let go of the database."""
        assert self.clock.getDelayedCalls() == []
        assert start(self.store.stop()).called
