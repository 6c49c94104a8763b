"""The life cycle of parts, and what is repeated."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from datahub.errors import NoSpace, StartError, Unavailable
from datahub.kit.aio import start
from datahub.kit.services import Repeating, Sequence


class Recorded:
    """A part that writes down what happens to it."""

    def __init__(self, name, story, *, refuses=False, ends=None):
        self.name, self.story, self.refuses, self.ends = name, story, refuses, ends

    def start(self):
        if self.refuses:
            raise StartError("no")
        self.story.append(f"start {self.name}")

    async def stop(self):
        self.story.append(f"stop {self.name}")
        if isinstance(self.ends, Exception):
            raise self.ends
        if self.ends is not None:
            try:
                await self.ends
            except CancelledError:
                self.story.append(f"{self.name} is cut short")
                raise


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def story():
    return []


def test_parts_stop_in_reverse(clock, story):
    """Each after those that stand on it; one added while it runs is stopped as the others are."""
    parts = Sequence(clock, 10)
    parts.start("store", Recorded("store", story))
    parts.start("queue", Recorded("queue", story))
    parts.add("listeners", Recorded("listeners", story))
    assert start(parts.stop()).called
    assert story == ["start store", "start queue", "stop listeners", "stop queue", "stop store"]


def test_a_part_is_stopped_before_the_next_one(clock, story):
    """Not at once: the store is there until the requests have ended."""
    ended: Deferred[None] = Deferred()
    parts = Sequence(clock, 10)
    parts.start("store", Recorded("store", story))
    parts.start("queue", Recorded("queue", story, ends=ended))
    stopping = start(parts.stop())
    assert story[-1] == "stop queue"
    ended.callback(None)
    assert stopping.called
    assert story[-1] == "stop store"


def test_a_part_that_hangs_is_left_after_a_while(clock, story):
    """The others are stopped all the same, and the log names the one that hung."""
    parts = Sequence(clock, 10)
    parts.start("store", Recorded("store", story))
    parts.start("queue", Recorded("queue", story, ends=Deferred()))
    stopping = start(parts.stop())
    with capturedLogs() as events:
        clock.advance(9.9)
        assert not stopping.called
        clock.advance(0.1)
    assert stopping.called
    assert story[-2:] == ["queue is cut short", "stop store"]
    assert [event["name"] for event in events] == ["queue"]


def test_a_part_that_fails_to_stop_keeps_no_other_from_it(clock, story):
    """Its failure is logged."""
    parts = Sequence(clock, 10)
    parts.start("store", Recorded("store", story))
    parts.start("queue", Recorded("queue", story, ends=KeyError("wrong")))
    with capturedLogs() as events:
        assert start(parts.stop()).called
    assert story[-1] == "stop store"
    assert events[0]["log_failure"].check(KeyError)


def test_a_part_that_refuses_to_start_is_not_stopped(clock, story):
    """Those before it are."""
    parts = Sequence(clock, 10)
    parts.start("store", Recorded("store", story))
    with pytest.raises(StartError):
        parts.start("queue", Recorded("queue", story, refuses=True))
    start(parts.stop())
    assert story == ["start store", "stop store"]


def test_stopping_twice_stops_once(clock, story):
    """The second time nothing is left."""
    parts = Sequence(clock, 10)
    parts.start("store", Recorded("store", story))
    start(parts.stop())
    start(parts.stop())
    assert story.count("stop store") == 1


def repeating(clock, work):
    return Repeating("forget old keys", 60, work, clock)


def test_repeated_at_once_and_then_in_its_rhythm(clock):
    """Until it is stopped."""
    times = []

    async def work():
        times.append(clock.seconds())

    each = repeating(clock, work)
    each.start()
    clock.pump([60, 60])
    assert start(each.stop()).called
    clock.pump([60, 60])
    assert times == [0, 60, 120]
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("error", [Unavailable("away"), NoSpace("full"), TimeoutError("late"), KeyError("a bug")])
def test_a_call_that_fails_is_not_the_last(clock, error):
    """A part that is away is a warning, a fault of our own has its traceback in the log; both times it goes on."""
    calls = []

    async def work():
        calls.append(clock.seconds())
        raise error

    each = repeating(clock, work)
    with capturedLogs() as events:
        each.start()
        clock.advance(60)
    assert calls == [0, 60]
    assert [event["name"] for event in events] == ["forget old keys"] * 2
    assert ("log_failure" in events[0]) == isinstance(error, KeyError)
    start(each.stop())


def test_a_slow_call_is_not_overtaken(clock):
    """The pause begins when it has ended."""
    gate: Deferred[None] = Deferred()
    calls = []

    async def work():
        calls.append(clock.seconds())
        await gate

    each = repeating(clock, work)
    each.start()
    clock.advance(200)
    assert calls == [0]
    gate.callback(None)
    clock.advance(60)
    assert calls == [0, 260]
    start(each.stop())


def test_a_call_under_way_is_cancelled_by_the_stop(clock):
    """Nothing goes on afterwards, and it is no fault."""
    left: list[str] = []

    async def work():
        try:
            await Deferred()
        except CancelledError:
            left.append("cancelled")
            raise

    each = repeating(clock, work)
    each.start()
    with capturedLogs() as events:
        assert start(each.stop()).called
    assert left == ["cancelled"]
    assert events == []


def test_what_was_never_started_can_be_stopped(clock):
    """It is nothing."""
    assert start(repeating(clock, Deferred).stop()).called
