"""datahub.queues.embedded: what is announced in one turn of the reactor is one look."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from datahub.kit.aio import start
from datahub.queues.embedded import EmbeddedQueue


class CountingListener:
    """Counts its looks; answers what ``answers`` holds, then True."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.looks = 0
        self.full = Deferred()

    async def look(self):
        self.looks += 1
        answer = self.answers.pop(0) if self.answers else True
        return await answer if isinstance(answer, Deferred) else answer

    async def room(self):
        await self.full


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(clock):
    queue = EmbeddedQueue(clock)
    yield queue
    assert start(queue.stop()).called
    assert clock.getDelayedCalls() == []


def turn(clock):
    clock.advance(0)


def test_announcements_of_one_turn_are_one_look(queue, clock):
    """A thousand announcements in one turn cost one look, in a later turn."""
    listener = CountingListener()
    queue.listen("lane", listener)
    queue.start()
    for _ in range(1000):
        queue.announce("lane")
    assert listener.looks == 0
    turn(clock)
    assert listener.looks == 1
    turn(clock)
    assert listener.looks == 1


def test_an_announcement_during_a_look_is_another_look(queue, clock):
    """What is committed after a look has read the tables is not lost."""
    looking = Deferred()
    listener = CountingListener(looking)
    queue.listen("lane", listener)
    queue.start()
    queue.announce("lane")
    turn(clock)
    queue.announce("lane")
    queue.announce("lane")
    looking.callback(True)
    turn(clock)
    turn(clock)
    assert listener.looks == 2


def test_nothing_piles_up_while_the_listener_is_full(queue, clock):
    """However much is announced meanwhile, a slot that comes free is one look."""
    listener = CountingListener(False)
    queue.listen("lane", listener)
    queue.start()
    queue.announce("lane")
    turn(clock)
    for _ in range(100):
        queue.announce("lane")
        turn(clock)
    assert listener.looks == 1
    listener.full.callback(None)
    turn(clock)
    assert listener.looks == 2


def test_a_lane_without_a_listener_is_nothing(queue):
    """A hub that works on other lanes only may announce all the same."""
    queue.start()
    queue.announce("lane")
    assert start(queue.check()).result is None


def test_lanes_are_apart(queue, clock):
    """An announcement wakes its own lane's listener only."""
    one, other = CountingListener(), CountingListener()
    queue.listen("one", one)
    queue.listen("other", other)
    queue.start()
    queue.announce("one")
    turn(clock)
    assert (one.looks, other.looks) == (1, 0)


def test_what_was_announced_before_the_start_is_looked_for(queue, clock):
    """The order of starting the hub's parts does not matter."""
    listener = CountingListener()
    queue.listen("lane", listener)
    queue.announce("lane")
    queue.start()
    turn(clock)
    assert listener.looks == 1


def test_nothing_is_called_after_the_stop(queue, clock):
    """An announcement after stop, or a turn before it, wakes nobody."""
    listener = CountingListener()
    queue.listen("lane", listener)
    queue.start()
    queue.announce("lane")
    start(queue.stop())
    queue.announce("lane")
    turn(clock)
    assert listener.looks == 0
