"""The lane of what FTS moves: it takes no slots from what is moved here, and its own are shared out fairly."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import text
from twisted.internet.defer import Deferred

from datahub.kit.aio import start
from datahub.transfers.following import REQUESTS, declare_servers
from datahub.transfers.handing import AT_A_TIME
from datahub.transfers.model import Status
from datahub.transfers.movers.fts_wire import CONNECTIONS
from datahub.transfers.pipeline import FTS, MOVE
from datahub.work import ledger
from tests.transfers.depot import DELIVERY, caller
from tests.transfers.fts_depot import TARGET, FtsDepot


@pytest.fixture
def depot():
    depot = FtsDepot(moving=1)
    yield depot
    depot.end()


def slots(depot: FtsDepot, lane: str, count: int) -> None:
    depot.store.now(partial(ledger.declare, name=lane, slots=count))


def to_fts(depot: FtsDepot, count: int, by: str = "alice") -> list[str]:
    fields = [{"destination_path": f"{TARGET}{by}/{each}"} for each in range(count)]
    return [depot.submit(by=caller(by), **each) for each in fields]


def at_fts(depot: FtsDepot, numbers: list[str]) -> list[str]:
    return [each for each in numbers if depot.transfer(each).fts_jobid is not None]


def stage_and_move(depot: FtsDepot) -> None:
    for _ in range(20):
        depot.stage()
        depot.move()


def test_neither_waits_for_the_other(depot):
    """One slot to move here: a long copy keeps nobody from FTS, nor do many jobs there keep one from here."""
    slots(depot, MOVE, 1)
    copying = Deferred()
    depot.mover.answers["copy"] = [copying]
    here = depot.submit()
    depot.stage()
    depot.move()
    numbers = to_fts(depot, 3 * AT_A_TIME)
    stage_and_move(depot)
    assert at_fts(depot, numbers) == numbers
    assert depot.place(here).state == "running"
    copying.callback(DELIVERY)
    later = depot.submit()
    stage_and_move(depot)
    assert depot.transfer(later).status is Status.SUCCESS
    assert {depot.place(each).state for each in numbers} == {"parked"}


def test_connections_are_kept():
    """Whoever hands over and whoever follows, together, need no new ones for each request."""
    assert AT_A_TIME + REQUESTS <= CONNECTIONS


def test_slots_at_fts_are_shared_fairly(depot):
    """Who comes later does not wait for all that others have handed over, but for the next slots."""
    slots(depot, FTS, 2)
    many = to_fts(depot, 8)
    depot.look()
    one, other = to_fts(depot, 2, "bob")
    stage_and_move(depot)
    first = at_fts(depot, [*many, one, other])
    assert len(first) == 2
    ends = []
    while not all(depot.transfer(each).status.final for each in [*many, one, other]):
        for each in list(depot.fake.jobs):
            depot.fake.finish(each)
        depot.follow()
        ended = [each for each in [*many, one, other] if depot.transfer(each).status.final and each not in ends]
        ends += ended
        assert len(at_fts(depot, [*many, one, other])) - len(ends) <= 2
        stage_and_move(depot)
    assert ends.index(one) < 5
    assert ends.index(other) < 7


def test_a_waiting_transfer_is_cancelled_and_gives_its_slot(depot):
    """One that waits for a slot at FTS, as well as one that has it."""
    slots(depot, FTS, 1)
    numbers = to_fts(depot, 3)
    stage_and_move(depot)
    (there,) = at_fts(depot, numbers)
    waiting, last = [each for each in numbers if each != there]
    assert depot.seen(waiting).place.state == "ready"
    start(depot.verbs.cancel(caller(), waiting))
    assert depot.transfer(waiting).status is Status.CANCELLED
    start(depot.verbs.cancel(caller(), there))
    stage_and_move(depot)
    assert at_fts(depot, [last]) == []
    depot.follow()
    stage_and_move(depot)
    assert depot.transfer(there).status is Status.CANCELLED
    assert at_fts(depot, [last]) == [last]


def test_what_an_older_version_has_handed_over(depot):
    """It was parked where a slot to move here is kept; a start of the hub lets it come over, without a second job."""
    (number,) = to_fts(depot, 1)
    stage_and_move(depot)
    move = text("UPDATE work SET lane = :lane WHERE subject = :number")
    depot.store.now(lambda connection: connection.execute(move, {"lane": MOVE, "number": number}))
    depot.store.now(partial(declare_servers, urls={}))
    stage_and_move(depot)
    assert (depot.place(number).lane, depot.place(number).state) == (FTS, "parked")
    assert len(depot.fake.submissions) == 1


def test_a_scheme_that_has_gone_to_fts(depot):
    """What waited to be moved here goes to FTS when its turn comes; so does one that is retried."""
    (number,) = to_fts(depot, 1)
    depot.stage()
    move = text("UPDATE work SET lane = :lane WHERE subject = :number")
    depot.store.now(lambda connection: connection.execute(move, {"lane": MOVE, "number": number}))
    depot.look(MOVE)
    depot.look(FTS)
    assert at_fts(depot, [number]) == [number]
    depot.fake.finish(depot.job(number), "FAILED", reason="SOURCE [2] No such file or directory")
    depot.follow()
    assert depot.transfer(number).status is Status.ERROR
    start(depot.verbs.retry(caller(), number))
    assert depot.place(number).lane == FTS
