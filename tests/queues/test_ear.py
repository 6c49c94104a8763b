"""datahub.queues.ear: a listener's looks, one at a time and never cut short."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from datahub.kit.aio import start
from datahub.queues.ear import PATIENCE, PAUSE, Ear


class SlowListener:
    """Answers a look when the test says so."""

    def __init__(self):
        self.looks = []
        self.rooms = []

    async def look(self):
        self.looks.append(Deferred())
        return await self.looks[-1]

    async def room(self):
        self.rooms.append(Deferred())
        await self.rooms[-1]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def listener():
    return SlowListener()


@pytest.fixture
def ear(listener, clock):
    return Ear("lane", listener, clock)


@pytest.mark.parametrize("room", [True, False])
def test_the_listeners_answer_is_given(ear, listener, room):
    """What the listener says about its room is what the caller gets."""
    looking = start(ear.look())
    listener.looks[0].callback(room)
    assert looking.result is room


def test_a_look_waits_for_the_one_before(ear, listener):
    """Two that call at once are served one after the other."""
    first, second = start(ear.look()), start(ear.look())
    assert len(listener.looks) == 1
    listener.looks[0].callback(False)
    assert first.result is False
    assert len(listener.looks) == 2
    listener.looks[1].callback(True)
    assert second.result is True


def test_a_caller_that_leaves_does_not_cut_the_look(ear, listener):
    """The connection that called may go; the claim under way goes on to its end."""
    looking = start(ear.look())
    looking.cancel()
    looking.addErrback(lambda failure: failure.trap(CancelledError))
    later = start(ear.look())
    assert len(listener.looks) == 1
    listener.looks[0].callback(True)
    listener.looks[1].callback(False)
    assert later.result is False


def test_a_failed_look_is_logged_and_answered_with_none(ear, listener):
    """A fault is one log line with the lane's name, no exception, and the next look is made."""
    with capturedLogs() as events:
        looking = start(ear.look())
        listener.looks[0].errback(RuntimeError("no database"))
    assert looking.result is None
    assert [(event["lane"], event["log_failure"].type) for event in events] == [("lane", RuntimeError)]
    again = start(ear.look())
    listener.looks[1].callback(True)
    assert again.result is True


def test_a_look_that_is_cancelled_from_inside_still_answers(ear, listener):
    """A listener that ends in CancelledError does not leave its caller waiting for ever."""
    looking = start(ear.look())
    listener.looks[0].errback(CancelledError())
    assert looking.result is None


def test_room_that_cannot_be_told_is_a_pause(ear, listener, clock):
    """A listener whose room() fails is asked again after a while, not at once."""
    with capturedLogs() as events:
        waiting = start(ear.room())
        listener.rooms[0].errback(RuntimeError("broken"))
        assert not waiting.called
        clock.advance(PAUSE)
    assert waiting.called
    assert len(events) == 1


def test_waiting_for_room_can_be_cancelled(ear, listener):
    """Cancelling reaches the listener's own wait."""
    waiting = start(ear.room())
    waiting.cancel()
    assert listener.rooms[0].called
    ended = []
    waiting.addErrback(lambda failure: ended.append(failure.type))
    assert ended == [CancelledError]


def test_stop_waits_for_the_look_under_way(ear, listener, clock):
    """A claim that has begun is let to its end."""
    start(ear.look())
    stopping = start(ear.stop())
    assert not stopping.called
    listener.looks[0].callback(True)
    assert stopping.called
    assert clock.getDelayedCalls() == []


def test_stop_does_not_wait_for_ever(ear, listener, clock):
    """A look that hangs is cancelled after five seconds, with a line in the log."""
    start(ear.look())
    stopping = start(ear.stop())
    with capturedLogs() as events:
        clock.advance(PATIENCE)
    assert stopping.called
    assert listener.looks[0].called
    assert [event["log_level"] for event in events if event["log_level"] > LogLevel.debug] == [LogLevel.warn]


def test_stop_of_an_idle_ear_is_at_once(ear):
    """Nothing under way, nothing to wait for."""
    assert start(ear.stop()).called
