"""Many deadlines, one timer."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from datahub.kit.aio import fired, leave, within
from datahub.kit.aio import start as begin
from datahub.kit.deadlines import Deadlines, coarse


def test_never_early_and_little_late():
    """Whatever the moment at which it is asked for, a deadline comes within half a second after its time."""
    clock = Clock()
    deadlines = Deadlines(clock)
    late: list[float] = []
    for _ in range(40):
        due = clock.seconds() + 1.3
        deadlines.callLater(1.3, lambda due=due: late.append(clock.seconds() - due))
        clock.advance(0.17)
    for _ in range(100):
        clock.advance(0.1)
    assert len(late) == 40
    assert min(late) >= 0
    assert max(late) < 0.71
    assert clock.getDelayedCalls() == []


def test_one_timer_for_all_and_none_for_nothing():
    """Ten thousand deadlines cost one timer; when all are cancelled there is none."""
    clock = Clock()
    deadlines = Deadlines(clock)
    calls: list[int] = []
    pending = [deadlines.callLater(n % 60, calls.append, n) for n in range(10_000)]
    assert len(clock.getDelayedCalls()) == 1
    assert all(each.active() for each in pending)
    for each in pending[:9999]:
        each.cancel()
        each.cancel()
    assert len(clock.getDelayedCalls()) == 1
    pending[9999].cancel()
    assert clock.getDelayedCalls() == []
    clock.advance(100)
    assert calls == []
    assert not any(each.active() for each in pending)


def test_what_is_cancelled_in_the_last_moment_is_not_called():
    """Also when another one of the same batch does so; and new ones may be made meanwhile."""
    clock = Clock()
    deadlines = Deadlines(clock)
    calls: list[str] = []

    def change() -> None:
        second.cancel()
        deadlines.callLater(1, calls.append, "third")

    first = deadlines.callLater(1, change)
    second = deadlines.callLater(1, calls.append, "second")
    clock.advance(2)
    assert (calls, first.active()) == ([], False)
    clock.advance(2)
    assert calls == ["third"]
    assert clock.getDelayedCalls() == []


def test_a_fault_is_logged_and_the_rest_is_called():
    """One bad deadline harms no other."""
    clock = Clock()
    deadlines = Deadlines(clock)
    calls: list[int] = []
    deadlines.callLater(0, lambda: 1 / 0)
    deadlines.callLater(0, calls.append, 2)
    with capturedLogs() as logged:
        clock.advance(1)
    assert calls == [2]
    assert len(logged) == 1


def test_they_serve_where_a_clock_does():
    """`within` and `fired` take them for the reactor."""
    clock = Clock()
    deadlines = coarse(clock)
    never: Deferred[None] = Deferred()
    late = begin(within(1, never, deadlines, "it"))
    signal: Deferred[None] = Deferred()
    answer = fired(signal, 1, deadlines)
    clock.advance(1.6)
    late.addErrback(lambda failure: failure.trap(TimeoutError))
    assert late.result is TimeoutError
    assert answer.result is False
    answer = fired(signal, 1, deadlines)
    signal.callback(None)
    assert answer.result is True
    leave(signal)
    assert clock.getDelayedCalls() == []
