"""What a hub looks after: its heartbeat, others' heartbeats, what is due, what is cancelled, and strays."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import select, update
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from datahub.errors import NoSpace, Unavailable
from datahub.kit.aio import start
from datahub.kit.clock import HubClock
from datahub.work import Done, Retry, ledger, presence, sweeper
from datahub.work.presence import BEAT, DEAD_AFTER, MISSED, Hub
from datahub.work.sweeper import EVERY, Sweeper
from datahub.work.tables import DELAYED, READY, RECOVERED, RUNNING, hub, work
from tests.work.floors import ME, Ground, Steps

OTHER = "hub2:bb"
MYSELF = Hub(ME, "hub1", "1")


@pytest.fixture
def steps():
    return Steps()


@pytest.fixture
def ground(monkeypatch):
    ground = Ground()
    # The database's clock goes as the hubs' steady one does, unless a test sets it.
    monkeypatch.setattr(presence, "_database_time", lambda _: int(ground.clock.seconds() * 1000))
    monkeypatch.setattr(sweeper, "uniform", lambda low, high: (low + high) / 2)
    yield ground
    ground.end()


@pytest.fixture
def begin(ground, steps):
    """Start a sweeper on one lane; it is stopped in the end."""
    begun = []

    def begin(*, alone=False, **more):
        lane = ground.lane(steps=steps, **more)
        lane.halt()
        mine = Sweeper(ground.floor, MYSELF, [lane], alone=alone)
        ground.store.now(partial(presence.enter, me=MYSELF, clock=ground.floor.clock))
        mine.start()
        ground.clock.advance(0)
        begun.append(mine)
        return lane

    yield begin
    ground.store.away.clear()
    for each in begun:
        stopping = start(each.stop())
        ground.clock.pump([0, 0])
        assert stopping.called


def pass_time(ground, seconds):
    """Let time go by in steps of a tenth of a second."""
    ground.clock.pump([0.1] * round(seconds * 10))


def owners(ground):
    return ground.store.now(lambda c: set(c.execute(select(hub.c.owner)).scalars()))


def beat_of(ground, owner=ME):
    return ground.store.now(lambda c: c.execute(select(hub.c.beat).where(hub.c.owner == owner)).scalar())


def enter_other(ground):
    """Another hub enters and takes what is there."""
    other = Hub(OTHER, "hub2", "1")
    ground.store.now(partial(presence.enter, me=other, clock=HubClock(ground.clock.seconds)))
    ground.store.now(partial(ledger.claim, name="test.one", count=9, owner=OTHER))
    return partial(presence.beat, me=other, clock=HubClock(ground.clock.seconds))


def test_it_beats(ground, begin):
    """Every few seconds."""
    begin()
    before = beat_of(ground)
    pass_time(ground, BEAT + 0.1)
    first = beat_of(ground)
    pass_time(ground, BEAT + 0.1)
    assert before < first < beat_of(ground)


def test_it_looks_by_itself(ground, begin, steps):
    """An announcement that was lost costs a second."""
    begin()
    ground.enqueue("t1")
    assert steps.begun == []
    pass_time(ground, EVERY + 0.2)
    assert steps.begun == ["t1"]


@pytest.mark.parametrize("error", [Unavailable("away"), NoSpace("full"), KeyError("a bug")])
def test_a_hub_that_can_not_beat_stops_its_work(ground, begin, steps, error):
    """After MISSED, well before others take it over, and not before; after a good beat it goes on."""
    begin()
    ground.enqueue("t1")
    pass_time(ground, EVERY + 0.2)
    assert MISSED < DEAD_AFTER / 2
    ground.store.away["beat"] = error
    with capturedLogs():
        pass_time(ground, MISSED - EVERY - 0.5)
        assert steps.cancelled == []
        pass_time(ground, 1)
        assert steps.cancelled == ["t1"]
        pass_time(ground, 3 * BEAT)
    assert steps.begun == ["t1"]
    ground.store.away.clear()
    pass_time(ground, BEAT + EVERY + 0.3)
    assert steps.begun == ["t1", "t1"]


def test_a_beat_that_hangs_is_missed(ground, begin, steps):
    """A database that takes the question and never answers is away as well, and is asked again."""
    begin()
    ground.enqueue("t1")
    pass_time(ground, EVERY + 0.2)
    ground.store.gates["beat"] = Deferred()
    with capturedLogs():
        pass_time(ground, MISSED + 0.2)
    assert steps.cancelled == ["t1"]
    ground.store.gates.clear()
    pass_time(ground, BEAT + EVERY + 0.5)
    assert steps.begun == ["t1", "t1"]


def test_beating_goes_on_while_a_step_is_slow_to_stop(ground, begin, steps):
    """A thread that hangs in a dead disk must not keep the hub from saying that it lives."""
    lane = begin()
    ground.enqueue("t1")
    pass_time(ground, EVERY + 0.2)
    steps.clearing = Deferred()
    ground.store.away["beat"] = Unavailable("away")
    pass_time(ground, MISSED + 0.2)
    assert steps.cancelled == ["t1"]
    before = beat_of(ground)
    ground.store.away.clear()
    pass_time(ground, BEAT + 0.2)
    assert beat_of(ground) > before
    assert len(lane.running) == 1
    steps.clearing.callback(None)


def test_a_hub_that_is_alone_works_on(ground, begin, steps):
    """Nobody could take over from it."""
    begin(alone=True)
    ground.enqueue("t1")
    pass_time(ground, EVERY + 0.2)
    ground.store.away["beat"] = Unavailable("away")
    pass_time(ground, 3 * DEAD_AFTER)
    assert steps.cancelled == []


def test_a_dead_hub_is_taken_over_from(ground, begin, steps):
    """When its beat has stood still for DEAD_AFTER of our own time: not before, and its row goes."""
    ground.lane()
    ground.enqueue("t1")
    enter_other(ground)
    begin()
    pass_time(ground, DEAD_AFTER)
    assert OTHER in owners(ground)
    assert ground.rows("owner") == [(OTHER,)]
    pass_time(ground, 2 * BEAT + 0.2)
    assert owners(ground) == {ME}
    assert steps.begun == ["t1"]
    assert ground.rows("owner", "attempt", "note") == [(ME, 2, "recovered")]
    assert "test.one" in ground.queue.lanes


def test_a_hub_that_beats_slowly_is_left_alone(ground, begin, steps):
    """However late its beats are, as long as they come."""
    ground.lane()
    ground.enqueue("t1")
    beat = enter_other(ground)
    begin()
    for _ in range(5):
        pass_time(ground, DEAD_AFTER - BEAT - 1)
        ground.store.now(beat)
    assert OTHER in owners(ground)
    assert steps.begun == []


def test_the_wall_clock_kills_no_hub(ground, begin, monkeypatch):
    """An hour's jump of the database's clock is no silence."""
    ground.lane()
    ground.enqueue("t1")
    beat = enter_other(ground)
    begin()
    monkeypatch.setattr(presence, "_database_time", lambda _: int(ground.clock.seconds() * 1000) + 3_600_000)
    for _ in range(5):
        pass_time(ground, BEAT + 0.2)
        ground.store.now(beat)
    assert OTHER in owners(ground)


def test_what_is_cancelled_is_stopped(ground, begin, steps):
    """The note of a running item reaches its step within a second; others go on."""
    begin()
    ground.enqueue("t1", "t2")
    pass_time(ground, EVERY + 0.2)
    assert not ground.store.now(partial(ledger.withdraw, lanes=["test.one"], subject="t1"))
    pass_time(ground, EVERY + 0.2)
    assert steps.cancelled == ["t1"]
    assert steps.begun == ["t1", "t2", "t1"]


def test_sweeping_goes_on_while_a_step_is_slow_to_stop(ground, begin, steps):
    """What is cancelled and hangs must not keep from its turn what is due."""
    begin()
    ground.enqueue("t1", "t2")
    pass_time(ground, EVERY + 0.2)
    steps.gates["t2"].callback(Retry(5000))
    steps.clearing = Deferred()
    ground.store.now(partial(ledger.withdraw, lanes=["test.one"], subject="t1"))
    pass_time(ground, 5 + 2 * EVERY)
    assert steps.cancelled == ["t1"]
    assert steps.begun == ["t1", "t2", "t2"]
    steps.clearing.callback(None)


def test_what_is_due_becomes_ready(ground, begin, steps):
    """Not before its time, and the lane is told."""
    begin()
    ground.enqueue("t1")
    pass_time(ground, EVERY + 0.2)
    steps.gates["t1"].callback(Retry(5000))
    pass_time(ground, 4.5)
    assert ground.rows() == [DELAYED]
    assert ground.queue.lanes == []
    pass_time(ground, EVERY + 0.6)
    assert ground.queue.lanes == ["test.one"]
    assert steps.begun == ["t1", "t1"]


def test_strays_are_given_back_when_seen_twice(ground, begin, steps):
    """An item that is ours by the ledger and does not run here was claimed by a commit we never heard of."""
    begin()
    ground.enqueue("t1")
    ground.store.now(partial(ledger.claim, name="test.one", count=1, owner=ME))
    ground.store.names.clear()
    pass_time(ground, EVERY + 0.2)
    assert ground.store.names.count("own work") == 1
    assert "give back strays" not in ground.store.names
    assert ground.rows("state", "owner") == [(RUNNING, ME)]
    pass_time(ground, EVERY)
    assert ground.store.names.count("give back strays") == 1
    pass_time(ground, EVERY)
    assert steps.begun == ["t1"]
    assert ground.rows("attempt") == [(2,)]


@pytest.mark.parametrize("step", ["settled too late", "stopped"])
def test_what_began_here_is_given_back_as_after_a_death(ground, begin, steps, step):
    """Its end could not be written while the database was away: a job must not begin again as if it never had."""
    lane = begin()
    ground.enqueue("t1")
    pass_time(ground, EVERY + 0.2)
    ground.store.away[""] = Unavailable("away")
    if step == "settled too late":
        steps.gates["t1"].callback(Done())
    pass_time(ground, MISSED + 2 * BEAT)
    assert lane.running == {}
    assert lane.unsettled == {(1, 1)}
    assert ground.rows("state", "owner", "note") == [(RUNNING, ME, None)]
    ground.store.away.clear()
    pass_time(ground, BEAT + 3 * EVERY)
    assert steps.begun == ["t1", "t1"]
    assert ground.rows("attempt", "note") == [(2, RECOVERED)]
    assert lane.unsettled == {(1, 2)}
    steps.gates["t1"].callback(Done())
    assert lane.unsettled == set()
    assert ground.rows() == []


def test_what_never_began_is_given_back_as_it_was(ground, begin, steps):
    """The note of a death before is kept, and none is added."""
    begin()
    ground.enqueue("t1", "t2")
    ground.store.now(lambda c: c.execute(update(work).where(work.c.id == 2).values(note=RECOVERED)) and None)
    ground.store.now(partial(ledger.claim, name="test.one", count=2, owner=ME))
    pass_time(ground, 3 * EVERY + 0.2)
    assert steps.begun == ["t1", "t2"]
    assert ground.rows("note") == [(None,), (RECOVERED,)]


def test_what_runs_is_no_stray(ground, begin, steps):
    """However long it does."""
    begin()
    ground.enqueue("t1")
    pass_time(ground, 20)
    assert "give back strays" not in ground.store.names
    assert steps.begun == ["t1"]


@pytest.mark.parametrize("error", [Unavailable("away"), NoSpace("full"), TimeoutError("late"), KeyError("a bug")])
@pytest.mark.parametrize("name", ["anything due", "own work", "make ready what is due"])
def test_a_sweep_that_fails_is_not_the_last(ground, begin, steps, name, error):
    """Whatever went wrong in it; a fault of our own is in the log with its traceback."""
    begin()
    ground.enqueue("t1")
    ground.store.now(lambda c: c.execute(update(work).values(state=DELAYED, due=0)) and None)
    ground.store.away[name] = error
    with capturedLogs() as events:
        pass_time(ground, 3 * EVERY)
    assert steps.begun == []
    assert any("log_failure" in event for event in events) == isinstance(error, KeyError | TimeoutError)
    ground.store.away.clear()
    pass_time(ground, EVERY + 0.2)
    assert steps.begun == ["t1"]


def test_a_burial_that_fails_is_tried_again(ground, begin):
    """With the next beat."""
    ground.lane()
    ground.enqueue("t1")
    enter_other(ground)
    begin()
    ground.store.away["bury a hub"] = KeyError("a bug")
    with capturedLogs() as events:
        pass_time(ground, DEAD_AFTER + 3 * BEAT)
    assert OTHER in owners(ground)
    assert any("log_failure" in event for event in events)
    ground.store.away.clear()
    pass_time(ground, BEAT + 0.2)
    assert owners(ground) == {ME}


def sweeping(ground, steps):
    """A sweeper that the test stops itself."""
    lane = ground.lane(steps=steps)
    mine = Sweeper(ground.floor, MYSELF, [lane], alone=False)
    ground.store.now(partial(presence.enter, me=MYSELF, clock=ground.floor.clock))
    mine.start()
    ground.enqueue("t1")
    pass_time(ground, EVERY + 0.2)
    return mine


def test_stopping_leaves_nothing(ground, steps):
    """What runs is given back, the row is gone, and no timer is left."""
    mine = sweeping(ground, steps)
    assert start(mine.stop()).called
    assert steps.cancelled == ["t1"]
    assert ground.rows("state", "owner") == [(READY, None)]
    assert owners(ground) == set()


def test_stopping_while_the_database_is_away(ground, steps):
    """Ends all the same; what it holds is the next start's to take back."""
    mine = sweeping(ground, steps)
    ground.store.away[""] = Unavailable("away")
    stopping = start(mine.stop())
    ground.clock.advance(1)
    assert stopping.called
    assert ground.rows("state", "owner") == [(RUNNING, ME)]


def test_what_could_not_be_given_back_is_given_back_by_leaving(ground, steps):
    """The item whose own giving back failed is released with our row, and its lane announced."""
    mine = sweeping(ground, steps)
    ground.store.away["settle test.one"] = Unavailable("away")
    stopping = start(mine.stop())
    ground.clock.advance(1)
    assert stopping.called
    assert ground.rows("state", "owner", "note") == [(READY, None, "recovered")]
    assert ground.queue.lanes == ["test.one"]


def test_a_burial_takes_back_nothing_of_the_living(ground, begin, steps):
    """Only what the dead one held."""
    begin()
    ground.enqueue("t1")
    pass_time(ground, EVERY + 0.2)
    ground.enqueue("t2")
    enter_other(ground)
    pass_time(ground, DEAD_AFTER + 2 * BEAT + 0.3)
    assert steps.cancelled == []
    assert steps.begun == ["t1", "t2"]
    steps.gates["t1"].callback(Done())
    assert ground.rows("subject") == [("t2",)]
