"""Waiting: who cancels whom, and whose failure is heard by whom."""

from __future__ import annotations

import builtins

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from datahub.kit.aio import Task, gather, shield, sleep, start, within


class Work:
    """A coroutine that waits until it is told how to end, and knows whether it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = False
        self.gate: Deferred[str] = Deferred()

    async def run(self) -> str:
        try:
            return await self.gate
        except CancelledError:
            self.cancelled = True
            raise

    def fail(self, error: Exception) -> None:
        self.gate.errback(error)


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def clock():
    return Clock()


def failure_of(deferred):
    """Give what ``deferred`` failed with, and take it as heard."""
    found = []
    deferred.addErrback(found.append)
    return found[0].value if found else None


def test_start_runs_up_to_the_first_wait(work):
    """The coroutine has begun when start returns, and its result is the Deferred's."""
    running = start(work.run())
    assert not running.called
    work.gate.callback("done")
    assert running.result == "done"


def test_a_shielded_coroutine_goes_on_when_its_caller_leaves(work):
    """Cancelled, the caller is free at once; the work is not touched."""
    outer = shield(work.run(), "the work")
    outer.cancel()
    assert isinstance(failure_of(outer), CancelledError)
    assert not work.cancelled
    work.gate.callback("done")


def test_a_shielded_failure_without_a_caller_is_logged(work):
    """Nobody is left to hear it, so the log names the work and has the failure."""
    outer = shield(work.run(), "settling 7")
    outer.cancel()
    failure_of(outer)
    with capturedLogs() as events:
        work.fail(KeyError("late"))
    (event,) = events
    assert event["what"] == "settling 7"
    assert event["log_failure"].check(KeyError)


@pytest.mark.parametrize("fails", [False, True])
def test_a_shielded_outcome_reaches_a_caller_who_stayed(work, fails):
    """Value and failure alike are his, and nothing is logged."""
    outer = shield(work.run(), "the work")
    with capturedLogs() as events:
        if fails:
            work.fail(KeyError("wrong"))
            assert isinstance(failure_of(outer), KeyError)
        else:
            work.gate.callback("done")
            assert outer.result == "done"
    assert events == []


def test_within_gives_what_comes_in_time(work, clock):
    """And leaves no timer behind."""
    waiting = start(within(5, work.run(), clock, "the work"))
    clock.advance(4.9)
    work.gate.callback("done")
    assert waiting.result == "done"
    assert clock.getDelayedCalls() == []


def test_within_raises_the_builtin_timeout(work, clock):
    """Not Twisted's class of that name; the work is cancelled and the text says which and how long."""
    waiting = start(within(2.5, work.run(), clock, "staging"))
    clock.advance(2.5)
    error = failure_of(waiting)
    assert type(error) is builtins.TimeoutError
    assert str(error) == "staging took longer than 2.5 s"
    assert work.cancelled


@pytest.mark.parametrize("error", [CancelledError(), DeferredTimeoutError()])
def test_within_takes_deferreds_too(clock, error):
    """A Deferred needs no coroutine around it; one that fails by Twisted's time-out fails by the builtin one."""
    waiting = start(within(2, Deferred(lambda each: each.errback(error)), clock, "the answer"))
    clock.advance(2)
    assert type(failure_of(waiting)) is builtins.TimeoutError


def test_within_passes_cancellation_on(work, clock):
    """Who is cancelled himself sees CancelledError, not a time-out, and the work is cancelled."""
    waiting = start(within(5, work.run(), clock, "the work"))
    waiting.cancel()
    assert isinstance(failure_of(waiting), CancelledError)
    assert work.cancelled
    assert clock.getDelayedCalls() == []


def test_within_waits_for_work_that_ends_slowly(clock):
    """Work that has to clear up when cancelled is waited for; its time-out is told all the same."""
    cleared: Deferred[None] = Deferred()

    async def slow() -> None:
        try:
            await Deferred()
        except CancelledError:
            await cleared
            raise

    waiting = start(within(1, slow(), clock, "the work"))
    clock.advance(1)
    assert not waiting.called
    cleared.callback(None)
    assert isinstance(failure_of(waiting), TimeoutError)


def test_gather_gives_results_in_order():
    """Whichever ends first."""
    first, second = Work(), Work()
    both = start(gather(first.run(), second.run()))
    second.gate.callback("b")
    assert not both.called
    first.gate.callback("a")
    assert both.result == ["a", "b"]


def test_gather_of_nothing():
    """Is an empty list at once."""
    assert start(gather()).result == []


def test_gather_cancels_the_others_when_one_fails():
    """The failure itself is raised, not one of Twisted's wrapped around it."""
    works = [Work(), Work(), Work()]
    all_of_them = start(gather(*(each.run() for each in works)))
    works[1].fail(KeyError("wrong"))
    assert isinstance(failure_of(all_of_them), KeyError)
    assert [each.cancelled for each in works] == [True, False, True]


def test_gather_cancelled_cancels_all():
    """Nothing goes on behind the back of who has left."""
    works = [Work(), Work()]
    both = start(gather(*(each.run() for each in works)))
    both.cancel()
    assert isinstance(failure_of(both), CancelledError)
    assert [each.cancelled for each in works] == [True, True]


def test_sleep_ends_when_its_time_has_come(clock):
    """Not before."""
    sleeping = sleep(3, clock)
    clock.advance(2.9)
    assert not sleeping.called
    clock.advance(0.1)
    assert sleeping.called


def test_a_cancelled_sleep_leaves_no_timer(clock):
    """It wakes at once by CancelledError."""
    sleeping = sleep(3, clock)
    sleeping.cancel()
    assert isinstance(failure_of(sleeping), CancelledError)
    assert clock.getDelayedCalls() == []


def test_a_task_runs_until_its_coroutine_ends(work):
    """All who wait for its end are told, once each."""
    task = Task("the work", work.run())
    waiting = [start(task.ended()), start(task.ended())]
    assert task.running
    assert not any(each.called for each in waiting)
    work.gate.callback("done")
    assert not task.running
    assert all(each.called for each in waiting)
    assert start(task.ended()).called


def test_a_task_that_ends_at_once():
    """Is not running when it has been made."""

    async def quick() -> None: ...

    task = Task("quick", quick())
    assert not task.running
    assert start(task.stop()).called


def test_a_task_logs_its_fault(work):
    """With its name; whoever waits for its end is not hit by it."""
    task = Task("heartbeat", work.run())
    waiting = start(task.ended())
    with capturedLogs() as events:
        work.fail(KeyError("wrong"))
    (event,) = events
    assert event["name"] == "heartbeat"
    assert event["log_failure"].check(KeyError)
    assert waiting.called
    assert waiting.result is None


def test_a_stopped_task_is_cancelled_without_a_word(work):
    """Stopping is no fault."""
    task = Task("the work", work.run())
    with capturedLogs() as events:
        assert start(task.stop()).called
    assert work.cancelled
    assert not task.running
    assert events == []


def test_stopping_a_task_waits_for_its_end():
    """A coroutine that has to clear up first is waited for."""
    cleared: Deferred[None] = Deferred()

    async def slow() -> None:
        try:
            await Deferred()
        except CancelledError:
            await cleared

    task = Task("slow", slow())
    stopping = start(task.stop())
    assert not stopping.called
    assert task.running
    cleared.callback(None)
    assert stopping.called


def test_who_waits_for_a_task_may_leave(work):
    """The task and the others who wait are not touched; it may also happen while they are being told."""
    task = Task("the work", work.run())
    leaver, stayer = start(task.ended()), start(task.ended())
    leaver.cancel()
    failure_of(leaver)
    first = start(task.ended())
    last = start(task.ended())
    first.addCallback(lambda _: last.cancel())
    work.gate.callback("done")
    assert stayer.called
    assert isinstance(failure_of(last), CancelledError)
