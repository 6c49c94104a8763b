"""A lane: items are taken within its slots, run, and settled once, whatever happens meanwhile."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from sqlalchemy import delete, insert, select
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs

from datahub.errors import NoSpace, PassingFault, Superseded, Unavailable
from datahub.kit.aio import start
from datahub.store.settings import setting
from datahub.work import Done, Fail, Next, Park, Retry, ledger, presence
from datahub.work.lane import SETTLE_AGAIN
from datahub.work.tables import DELAYED, PARKED, READY, RUNNING, work
from tests.work.floors import ME, Ground, Steps


@pytest.fixture
def ground():
    ground = Ground()
    yield ground
    ground.end()


@pytest.fixture
def steps():
    return Steps()


def noted(ground):
    """What steps wrote in the transactions that settled their items."""
    return ground.store.now(lambda c: list(c.execute(select(setting.c.name)).scalars()))


def note(name, connection):
    connection.execute(insert(setting), {"name": name, "value": "1"})


def refuse(_):
    raise Superseded("the record is not what it was")


def test_an_item_is_run_and_settled(ground, steps):
    """Its record is there for the step, what the step writes is there afterwards, the item is not."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    assert ground.look(lane).result is True
    assert ground.rows("state", "owner", "attempt") == [(RUNNING, ME, 1)]
    assert [each.subject for each in lane.running.values()] == ["t1"]
    steps.gates["t1"].callback(Done(partial(note, "done")))
    assert ground.rows() == []
    assert noted(ground) == ["done"]
    assert lane.running == {}
    ground.clock.advance(0)


def test_slots_are_never_exceeded(ground, steps):
    """However much waits and however often is looked, two run; one that ends lets the next one begin by itself."""
    lane = ground.lane(steps=steps, slots=2)
    ground.enqueue(*(f"t{number}" for number in range(7)))
    for _ in range(5):
        assert ground.look(lane).result is False
    assert len(steps.gates) == 2
    while steps.gates:
        next(iter(steps.gates.values())).callback(Done())
        start(lane.look())
        start(lane.look())
        ground.clock.advance(0)
    assert steps.begun == [f"t{number}" for number in range(7)]
    assert steps.most == 2
    assert ground.rows() == []


def test_the_clusters_slots_count_as_well(ground, steps):
    """A hub with more slots than the lane has in all takes no more than those."""
    lane = ground.lane(steps=steps, slots=10, cluster=3)
    ground.enqueue(*"abcde")
    ground.look(lane)
    assert steps.begun == ["a", "b", "c"]
    steps.gates["b"].callback(Done())
    ground.clock.advance(0)
    assert steps.begun == ["a", "b", "c", "d"]
    start(lane.close())


def test_looks_at_the_same_time_are_one(ground):
    """A thousand looks in one turn cost one claim."""
    lane = ground.lane()
    looks = [start(lane.look()) for _ in range(1000)]
    ground.clock.advance(0)
    assert all(each.result is True for each in looks)
    assert ground.store.names == ["claim test.one"]


def test_a_look_during_a_look_is_not_lost(ground, steps):
    """What was committed after a claim had read the tables is found by the look that was asked for meanwhile."""
    lane = ground.lane(steps=steps)
    held = ground.store.gates["claim test.one"] = Deferred()
    first = ground.look(lane)
    second = ground.look(lane)
    del ground.store.gates["claim test.one"]
    ground.store.before["claim test.one"] = lambda _: None
    held.callback(None)
    assert ground.store.names == ["claim test.one"]
    ground.enqueue("t1")
    ground.clock.advance(0)
    assert ground.store.names == ["claim test.one"] * 2
    assert steps.begun == ["t1"]
    assert (first.result, second.result) == (True, True)
    start(lane.close())


def test_a_look_that_is_left_loses_nothing(ground, steps):
    """Whoever asked may go while the claim is under way: what it claims is run all the same."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1", "t2")
    held = ground.store.gates["claim test.one"] = Deferred()
    leaver, stayer = ground.look(lane), start(lane.look())
    leaver.cancel()
    leaver.addErrback(lambda failure: failure.trap(CancelledError))
    held.callback(None)
    assert steps.begun == ["t1", "t2"]
    assert stayer.result is False
    start(lane.close())


@pytest.mark.parametrize("error", [Unavailable("away"), NoSpace("full"), KeyError("a bug")])
def test_a_claim_that_fails_is_not_the_last(ground, steps, error):
    """A database that is away, or a fault of our own, costs one look."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.store.away["claim test.one"] = error
    assert ground.look(lane).result is True
    assert steps.begun == []
    ground.store.away.clear()
    ground.look(lane)
    assert steps.begun == ["t1"]
    start(lane.close())


def test_room_is_told_when_a_slot_is_free(ground, steps):
    """At once if one is, else when an item has been settled; who waits may leave."""
    lane = ground.lane(steps=steps, slots=1)
    assert start(lane.room()).called
    ground.enqueue("t1")
    ground.look(lane)
    waiting, leaver = start(lane.room()), start(lane.room())
    leaver.cancel()
    leaver.addErrback(lambda failure: failure.trap(CancelledError))
    assert not waiting.called
    steps.gates["t1"].callback(Done())
    assert waiting.called
    ground.clock.advance(0)


@pytest.mark.parametrize(
    ("outcome", "row"),
    [
        (Retry(5000, partial(note, "told")), (DELAYED, None, 5000, None)),
        (Park(70_000, partial(note, "told")), (PARKED, None, 70_000, None)),
        (Done(partial(note, "told")), None),
        (Fail(partial(note, "told")), None),
    ],
)
def test_outcomes(ground, steps, outcome, row):
    """Each leaves the item as it says, and what the step writes in the same transaction."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    steps.gates["t1"].callback(outcome)
    assert ground.rows("state", "owner", "due", "note") == ([row] if row else [])
    assert noted(ground) == ["told"]
    assert ground.queue.lanes == []
    ground.clock.advance(0)


def test_retry_counts_from_the_hubs_clock(ground, steps):
    """At the time of settling."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    ground.clock.advance(10)
    steps.gates["t1"].callback(Retry(5000))
    assert ground.rows("due") == [(15_000,)]
    ground.clock.advance(0)


def test_next_hands_over_and_announces(ground, steps):
    """The item goes on in the other lane for the same submitter, which is told after the commit."""
    lane = ground.lane(steps=steps)
    ground.lane("test.two")
    ground.enqueue("t1", submitter="bob")
    ground.look(lane)
    ground.store.before["settle test.one"] = lambda _: ground.queue.announce("not yet")
    steps.gates["t1"].callback(Next("test.two", partial(note, "staged")))
    assert ground.rows("lane", "subject", "submitter", "state") == [("test.two", "t1", "bob", READY)]
    assert noted(ground) == ["staged"]
    assert ground.queue.lanes == ["not yet", "test.two"]
    ground.clock.advance(0)


def test_a_step_that_raises_is_a_fault(ground, steps):
    """What the step's own rule makes of it is settled; the lane goes on."""
    lane = ground.lane(steps=steps, slots=1)
    ground.enqueue("t1", "t2")
    ground.look(lane)
    steps.gates["t1"].errback(PassingFault("the disk is full"))
    ground.clock.advance(0)
    assert [str(each) for each in steps.faults] == ["the disk is full"]
    assert ground.rows() == [DELAYED, RUNNING]
    assert steps.begun == ["t1", "t2"]
    start(lane.close())


def test_a_fault_that_can_not_be_told_frees_the_slot(ground, steps):
    """When even the rule for faults raises, the log has it; the item is a stray for the sweeper."""
    steps.fault = lambda item, error: {}[item.subject]
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    with capturedLogs() as events:
        steps.gates["t1"].errback(PassingFault("the disk is full"))
    assert [event["log_failure"].type for event in events] == [KeyError]
    assert lane.running == {}
    assert ground.rows("state", "owner") == [(RUNNING, ME)]
    assert lane.unsettled == {(number_of(ground), 1)}
    ground.clock.advance(0)


def test_work_for_a_record_that_is_gone_is_dropped(ground, steps):
    """No step is run for it, and the log says so."""
    steps.missing = {"t1"}
    lane = ground.lane(steps=steps)
    ground.enqueue("t1", "t2")
    with capturedLogs() as events:
        ground.look(lane)
    assert steps.begun == ["t2"]
    assert [event["subject"] for event in events if event["log_level"].name == "warn"] == ["t1"]
    assert ground.rows("subject") == [("t2",)]
    start(lane.close())
    ground.clock.advance(0)


def test_superseded_while_settling_is_given_back(ground, steps):
    """The record has changed meanwhile (cancelled): nothing is kept, and the step sees the record as it is now."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    steps.gates["t1"].callback(Done(refuse))
    assert ground.rows("state", "owner", "note") == [(READY, None, None)]
    ground.clock.advance(0)
    assert steps.begun == ["t1", "t1"]
    steps.gates["t1"].callback(Done())
    assert ground.rows() == []
    ground.clock.advance(0)


def test_superseded_in_the_step_is_given_back(ground, steps):
    """It is no fault of the step."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    steps.gates["t1"].errback(Superseded("cancelled"))
    assert steps.faults == []
    ground.clock.advance(0)
    assert ground.rows("state", "attempt") == [(RUNNING, 2)]
    start(lane.close())


def test_an_attempt_that_was_taken_over_changes_nothing(ground, steps):
    """Another hub has the item by now: our outcome, and our giving back, are refused; the slot is free."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    ground.store.now(partial(presence.take_back, owner=ME))
    ground.store.now(partial(ledger.claim, name="test.one", count=1, owner="hub2:bb"))
    steps.gates["t1"].callback(Done(partial(note, "late")))
    assert ground.rows("state", "owner", "attempt") == [(RUNNING, "hub2:bb", 2)]
    assert noted(ground) == []
    assert lane.running == {}
    ground.clock.advance(0)


@pytest.mark.parametrize("error", [Unavailable("away"), NoSpace("full")])
def test_an_outcome_waits_for_the_database(ground, steps, error):
    """As long as it is away; then it is settled once, and the slot is free only then."""
    lane = ground.lane(steps=steps, slots=1)
    ground.lane("test.two")
    ground.enqueue("t1", "t2")
    ground.look(lane)
    ground.store.away[""] = error
    steps.gates["t1"].callback(Next("test.two", partial(note, "once")))
    ground.clock.pump([SETTLE_AGAIN] * 30)
    assert start(lane.look()).result is False
    assert ground.rows("lane", "state") == [("test.one", RUNNING), ("test.one", READY)]
    ground.store.away.clear()
    ground.clock.pump([SETTLE_AGAIN, 0])
    assert ground.rows("lane", "state") == [("test.one", RUNNING), ("test.two", READY)]
    assert noted(ground) == ["once"]
    assert ground.queue.lanes == ["test.two"]
    assert steps.begun == ["t1", "t2"]
    start(lane.close())


def number_of(ground, subject="t1"):
    return ground.store.now(lambda c: c.execute(select(work.c.id).where(work.c.subject == subject)).scalar())


def test_interrupting_what_runs(ground, steps):
    """Its step is cancelled, the item given back and, the lane being open, taken up again with the record as it is."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1", "t2")
    ground.look(lane)
    lane.interrupt(number_of(ground))
    assert steps.cancelled == ["t1"]
    assert ground.rows("subject", "state") == [("t1", READY), ("t2", RUNNING)]
    ground.clock.advance(0)
    assert steps.begun == ["t1", "t2", "t1"]
    start(lane.close())


def test_interrupting_twice_cancels_once(ground, steps):
    """A step that takes its time to clear up is not disturbed in it; the item is given back when it has ended."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    steps.clearing = Deferred()
    for _ in range(3):
        lane.interrupt(number_of(ground))
    lane.halt()
    closing = start(lane.close())
    assert not closing.called
    assert ground.rows() == [RUNNING]
    steps.clearing.callback(None)
    assert closing.called
    assert steps.cancelled == ["t1"]
    assert ground.rows() == [READY]


def test_interrupting_what_is_being_settled(ground, steps):
    """Comes too late: the outcome counts."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    held = ground.store.gates["settle test.one"] = Deferred()
    steps.gates["t1"].callback(Done(partial(note, "done")))
    lane.interrupt(number_of(ground))
    held.callback(None)
    assert ground.rows() == []
    assert noted(ground) == ["done"]
    ground.clock.advance(0)


def test_interrupting_what_does_not_run_here(ground, steps):
    """Is nothing."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    lane.interrupt(999)
    assert steps.cancelled == []
    start(lane.close())


def test_closing_gives_everything_back(ground, steps):
    """All steps are cancelled, none of them is kept waiting by another, and nothing is claimed any more."""
    lane = ground.lane(steps=steps, slots=3)
    ground.enqueue(*"abcd")
    ground.look(lane)
    steps.clearing = Deferred()
    closing = start(lane.close())
    assert steps.cancelled == ["a", "b", "c"]
    steps.clearing.callback(None)
    assert closing.called
    assert ground.rows("state", "owner") == [(READY, None)] * 4
    assert start(lane.look()).result is False
    assert lane.running == {}


def test_a_claim_under_way_is_given_back_by_the_close(ground, steps):
    """What it claims is not begun."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    held = ground.store.gates["claim test.one"] = Deferred()
    ground.look(lane)
    closing = start(lane.close())
    assert not closing.called
    held.callback(None)
    assert closing.called
    assert steps.begun == []
    assert ground.rows("state", "owner") == [(READY, None)]


def test_a_hanging_claim_keeps_no_step_running(ground, steps):
    """A database that does not answer must not delay the stop of what runs: others will take it over."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    held = ground.store.gates["claim test.one"] = Deferred()
    ground.look(lane)
    closing = start(lane.close())
    assert steps.cancelled == ["t1"]
    held.callback(None)
    assert closing.called


def test_closing_does_not_wait_for_a_database_that_is_away(ground, steps):
    """The next start, or another hub, takes back what could not be given back."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1", "t2")
    ground.look(lane)
    ground.store.away[""] = Unavailable("away")
    steps.gates["t1"].callback(Done())
    closing = start(lane.close())
    ground.clock.advance(SETTLE_AGAIN)
    assert closing.called
    assert ground.rows("state", "owner") == [(RUNNING, ME)] * 2


def test_opened_again_it_goes_on(ground, steps):
    """A lane that was halted while the database was away takes up work again."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    lane.halt()
    assert ground.rows() == [READY]
    ground.look(lane)
    lane.open()
    ground.look(lane)
    assert steps.begun == ["t1", "t1"]
    start(lane.close())


def test_an_item_that_vanished_frees_its_slot(ground, steps):
    """Somebody has removed the row by hand: the outcome is dropped with a line in the log."""
    lane = ground.lane(steps=steps)
    ground.enqueue("t1")
    ground.look(lane)
    ground.store.now(lambda c: c.execute(delete(work)) and None)
    steps.gates["t1"].callback(Done(partial(note, "late")))
    assert lane.running == {}
    assert noted(ground) == []
    ground.clock.advance(0)


def test_what_is_enqueued_begins_in_the_same_transaction(ground, steps):
    """Where there is room; the ledger's order decides which item, and without room it waits."""
    lane = ground.lane(steps=steps, slots=2)
    enter = partial(ledger.enqueue, name=lane.name, submitter="alice")
    assert start(lane.run("enter", partial(enter, subject="t1"))).result is True
    assert (steps.begun, ground.store.names) == (["t1"], ["enter"])
    ground.enqueue("t0", submitter="bob")
    for subject in ("t2", "t3"):
        start(lane.run("enter", partial(enter, subject=subject)))
    assert steps.begun == ["t1", "t0"]
    assert ground.rows() == [RUNNING, RUNNING, READY, READY]
    for _ in range(4):
        next(iter(steps.gates.values())).callback(Done())
        ground.clock.advance(0)
    assert (steps.begun, steps.most, ground.rows()) == (["t1", "t0", "t2", "t3"], 2, [])


def test_a_transaction_that_fails_gives_its_slot_back(ground, steps):
    """Nothing is claimed, and all slots are free again."""
    lane = ground.lane(steps=steps, slots=1)
    ground.store.away["enter"] = Unavailable("away")
    failed = start(lane.run("enter", lambda _: None))
    failures: list[Any] = []
    failed.addErrback(failures.append)
    assert failures[0].check(Unavailable)
    ground.enqueue("t1")
    ground.look(lane)
    assert steps.begun == ["t1"]
    steps.gates["t1"].callback(Done())
    ground.clock.advance(0)


def test_two_ways_of_claiming_share_the_slots(ground, steps):
    """While a look's claim is under way its slots are not given away to what is just enqueued."""
    lane = ground.lane(steps=steps, slots=2)
    ground.enqueue("t1", "t2")
    gate = ground.store.gates[f"claim {lane.name}"] = Deferred()
    ground.look(lane)
    start(lane.run("enter", partial(ledger.enqueue, name=lane.name, subject="t3", submitter="alice")))
    gate.callback(None)
    ground.clock.advance(0)
    assert (steps.begun, steps.most) == (["t1", "t2"], 2)
    while steps.gates:
        next(iter(steps.gates.values())).callback(Done())
        ground.clock.advance(0)
    assert (steps.begun, steps.most) == (["t1", "t2", "t3"], 2)
