"""What every queue promises, held by each implementation on the real reactor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.logger import capturedLogs

from datahub.kit.aio import sleep
from datahub.queues.embedded import EmbeddedQueue
from tests.brokers import AmqpCluster, SlotListener
from tests.servers import amqp_url
from tests.waiting import until

LONG = 0.3


class EmbeddedHub:
    """A hub that is alone."""

    def __init__(self, reactor):
        self._reactor = reactor
        self._queues = []

    def make(self, **listeners):
        queue = EmbeddedQueue(self._reactor)
        self._queues.append(queue)
        for lane, listener in listeners.items():
            queue.listen(lane, listener)
        return queue

    async def hub(self, **listeners):
        queue = self.make(**listeners)
        queue.start()
        return queue

    async def close(self):
        for queue in self._queues:
            await queue.stop()


@pytest_twisted.async_yield_fixture(params=["embedded", pytest.param("amqp", marks=pytest.mark.engine)])
async def cluster(request, reactor):
    """Make queues of one kind; all of a test see each other's announcements."""
    cluster = EmbeddedHub(reactor) if request.param == "embedded" else AmqpCluster(amqp_url(), reactor)
    yield cluster
    await cluster.close()


async def settled(listener, reactor):
    """Let the looks that a hub makes by itself on connecting pass, and count from here."""
    seen = -1
    while listener.looks != seen:
        seen = listener.looks
        await sleep(LONG, reactor)
    listener.looks = 0


async def test_an_announcement_is_a_look(cluster, reactor):
    """Who listens to a lane is called when it is announced, each time."""
    listener = SlotListener()
    queue = await cluster.hub(lane=listener)
    await settled(listener, reactor)
    for _ in range(3):
        seen = listener.looks
        queue.announce("lane")
        await until(lambda seen=seen: listener.looks == seen + 1, "one look more")  # type: ignore[misc]  # the default binds


async def test_announcing_never_fails(cluster):
    """Before the start, on the way to the broker, after the stop: it is no error, nor a wait."""
    listener = SlotListener()
    queue = cluster.make(lane=listener)
    assert queue.announce("lane") is None
    queue.start()
    assert queue.announce("lane") is None
    await until(lambda: listener.looks, "a look after the start")
    assert queue.announce("a lane that nobody listens to") is None
    await queue.stop()
    assert queue.announce("lane") is None


async def test_lanes_are_apart(cluster, reactor):
    """An announcement reaches the listener of its own lane only."""
    one, other = SlotListener(), SlotListener()
    queue = await cluster.hub(one=one, other=other)
    await settled(one, reactor)
    await settled(other, reactor)
    queue.announce("one")
    await until(lambda: one.looks, "a look")
    await sleep(LONG, reactor)
    assert other.looks == 0


async def test_a_burst_is_looked_at_and_not_piled_up(cluster, reactor):
    """A thousand announcements at once are heard, in no more looks than there were announcements."""
    listener = SlotListener()
    queue = await cluster.hub(lane=listener)
    await settled(listener, reactor)
    for _ in range(1000):
        queue.announce("lane")
    await until(lambda: listener.looks, "a look")
    await sleep(LONG, reactor)
    assert 1 <= listener.looks <= 1000


async def test_a_full_listener_is_left_alone(cluster, reactor):
    """After a look that answered False there is none until a slot is free; then what was announced is seen."""
    listener = SlotListener()
    queue = await cluster.hub(lane=listener)
    await settled(listener, reactor)
    listener.slots = 1
    queue.announce("lane")
    await until(lambda: listener.looks == 1, "the look that fills it")
    for _ in range(20):
        queue.announce("lane")
    await sleep(LONG, reactor)
    assert listener.looks == 1
    listener.slots = 100
    listener.free()
    await until(lambda: listener.looks > 1, "a look once there is room")


async def test_a_failing_look_is_logged_and_the_next_one_made(cluster, reactor):
    """A listener's fault is one line in the log; the loop lives on."""

    class Failing(SlotListener):
        fault = None

        async def look(self):
            await super().look()
            if self.fault:
                raise self.fault
            return True

    listener = Failing()
    queue = await cluster.hub(lane=listener)
    await settled(listener, reactor)
    listener.fault = RuntimeError("no database")
    with capturedLogs() as events:
        queue.announce("lane")
        await until(lambda: any("log_failure" in event for event in events), "the log of the fault")
    faults = [event for event in events if "log_failure" in event]
    assert all(event["lane"] == "lane" and event["log_failure"].check(RuntimeError) for event in faults)
    listener.fault = None
    seen = listener.looks
    queue.announce("lane")
    await until(lambda: listener.looks > seen, "a look after the fault")


async def test_a_look_under_way_outlives_the_call_to_stop(cluster, reactor):
    """Stop waits for a claim that has begun, and makes no other."""

    class Slow(SlotListener):
        ended = False

        async def look(self):
            self.looks += 1
            await sleep(LONG, reactor)
            self.ended = True
            return True

    listener = Slow()
    queue = await cluster.hub(lane=listener)
    queue.announce("lane")
    await until(lambda: listener.looks, "a look")
    await queue.stop()
    assert listener.ended
    seen = listener.looks
    queue.announce("lane")
    await sleep(LONG, reactor)
    assert listener.looks == seen


async def test_stop_may_come_at_any_moment(cluster, reactor):
    """While it connects, while the listener is full, twice, or without a start: stop returns and leaves nothing."""
    await cluster.make(lane=SlotListener()).stop()
    young = cluster.make(lane=SlotListener())
    young.start()
    await young.stop()
    full = SlotListener(1)
    queue = await cluster.hub(lane=full)
    queue.announce("lane")
    await until(lambda: full.looks, "the look that fills it")
    await queue.stop()
    await queue.stop()


async def test_a_queue_that_works_has_no_complaint(cluster):
    """The health check of a queue that carries announcements is None."""
    queue = await cluster.hub(lane=SlotListener())
    assert await queue.check() is None


async def test_a_listener_may_announce_its_own_lane(cluster, reactor):
    """A look that finds more to do may say so, and is called again."""

    class Announcing(SlotListener):
        announce: Callable[[str], None] | None = None

        async def look(self):
            self.looks += 1
            if self.announce and self.looks < 3:
                self.announce("lane")
            return True

    listener = Announcing()
    queue = await cluster.hub(lane=listener)
    await settled(listener, reactor)
    listener.announce = queue.announce
    queue.announce("lane")
    await until(lambda: listener.looks == 3, "the looks that the looks called for")
