"""Counting what goes on, and waiting for its end."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from datahub.kit.aio import start
from datahub.web.traffic import Crowd, Traffic


class Line:
    """A connection that closes when it is told to, or only by force."""

    def __init__(self, traffic: Traffic, *, stubborn: bool = False) -> None:
        self.traffic = traffic
        self.stubborn = stubborn
        self.ended = ""
        traffic.connections.add(self)

    def close(self) -> None:
        if not self.stubborn:
            self.ended = "closed"
            self.traffic.connections.discard(self)

    def abort(self) -> None:
        self.ended = "aborted"
        self.traffic.connections.discard(self)


def test_a_crowd_tells_when_the_last_has_gone():
    """All who wait are told, and only then; one who stops waiting is forgotten."""
    crowd: Crowd[int] = Crowd()
    assert start(crowd.gone()).called
    crowd.add(1)
    crowd.add(2)
    first, second, third = start(crowd.gone()), start(crowd.gone()), start(crowd.gone())
    third.addErrback(lambda _: None).cancel()
    crowd.discard(1)
    assert [each.called for each in (first, second)] == [False, False]
    crowd.discard(2)
    assert [each.called for each in (first, second)] == [True, True]


def test_the_limit_is_reported_once_a_second():
    """Connections beyond the limit are refused and counted; a flood does not fill the log."""
    clock = Clock()
    traffic = Traffic(1, clock)
    assert traffic.admits()
    Line(traffic)
    with capturedLogs() as events:
        for _ in range(5):
            assert not traffic.admits()
        assert [event["refused"] for event in events] == [1]
        clock.advance(1.5)
        assert not traffic.admits()
    assert [event["refused"] for event in events] == [1, 5]
    assert events[0]["limit"] == 1


def test_a_drain_waits_for_requests_and_operations():
    """The drain ends when the last request is answered and the last operation is over; then connections are closed."""
    traffic = Traffic(9, Clock())
    line = Line(traffic)
    traffic.requests.add("request")
    operation = traffic.operation()
    operation.__enter__()
    drained = start(traffic.drain(10))
    assert traffic.draining
    traffic.requests.discard("request")
    assert (drained.called, line.ended) == (False, "")
    operation.__exit__(None, None, None)
    assert (drained.called, line.ended) == (True, "closed")


def test_a_drain_with_nothing_to_do_is_over_at_once():
    """A hub that serves nobody stops without delay, and leaves no timer."""
    clock = Clock()
    assert start(Traffic(9, clock).drain(60)).called
    assert clock.getDelayedCalls() == []


def test_a_drain_has_a_limit():
    """What is not done by then is cut off and logged; who does not let himself be closed is cut off a second later."""
    clock = Clock()
    traffic = Traffic(9, clock)
    line, stubborn = Line(traffic), Line(traffic, stubborn=True)
    traffic.requests.add("endless")
    with capturedLogs() as events:
        drained = start(traffic.drain(10))
        clock.advance(9.9)
        assert not drained.called
        clock.advance(0.2)
    assert [event["count"] for event in events] == [1]
    assert (line.ended, stubborn.ended, drained.called) == ("closed", "", False)
    clock.advance(1)
    assert (stubborn.ended, drained.called) == ("aborted", True)
    assert clock.getDelayedCalls() == []
