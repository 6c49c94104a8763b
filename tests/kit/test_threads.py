"""Pools of threads on the real reactor, and work that can be stopped."""

from __future__ import annotations

import threading
from threading import Event
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from datahub.kit.aio import gather, sleep, start
from datahub.kit.threads import InlinePool, ReactorPool, stoppable, taking
from tests.waiting import until


@pytest_twisted.async_yield_fixture
async def pool(reactor: Any) -> Any:
    """A started pool of two threads."""
    pool = ReactorPool("disk", 2, reactor)
    pool.start()
    yield pool
    await pool.stop()


def where() -> tuple[int, str]:
    """Which thread this is."""
    thread = threading.current_thread()
    return thread.ident or 0, thread.name


def add(one: int, *, other: int) -> int:
    """One and other."""
    return one + other


def fail() -> None:
    """Go wrong."""
    raise KeyError("wrong")


async def test_work_is_done_in_a_thread_of_the_pool(pool):
    """Off the reactor's thread, with the pool's name in it, arguments and result passed through."""
    ident, name = await pool.run(where)
    assert ident != threading.get_ident()
    assert "disk" in name
    assert await pool.run(add, 1, other=2) == 3


async def test_what_work_raises_is_raised(pool):
    """In the caller."""
    with pytest.raises(KeyError, match="wrong"):
        await pool.run(fail)


async def test_no_more_threads_than_its_size(pool):
    """What is more waits."""
    count, most, lock = [0], [0], threading.Lock()

    def work() -> None:
        with lock:
            count[0] += 1
            most[0] = max(most[0], count[0])
        Event().wait(0.05)
        with lock:
            count[0] -= 1

    await gather(*(pool.run(work) for _ in range(10)))
    assert most == [2]


async def test_stop_waits_for_the_work_under_way(reactor):
    """Its threads have ended, and the work before."""
    pool = ReactorPool("short", 1, reactor)
    pool.start()
    done = Event()

    def work() -> None:
        Event().wait(0.05)
        done.set()

    running = start(pool.run(work))
    await pool.stop()
    assert done.is_set()
    await running
    assert not [each for each in threading.enumerate() if "short" in each.name]


async def test_the_inline_pool_works_at_once():
    """Where it is called; what is raised is raised."""
    pool = InlinePool()
    pool.start()
    assert await pool.run(where) == where()
    with pytest.raises(KeyError):
        await pool.run(fail)
    await pool.stop()


class Flagged:
    """Work that runs until its flag is set, and then takes its time to clear up."""

    def __init__(self) -> None:
        self.cleared = Event()
        self.may_end = Event()
        self.ended = False

    def run(self, stop: Event) -> str:
        stop.wait(45)
        self.cleared.set()
        self.may_end.wait(45)
        self.ended = True
        return "stopped"


async def test_stoppable_gives_the_result(pool):
    """When nobody stops it; and its failure."""
    assert await stoppable(pool, lambda stop: "done" if not stop.is_set() else "stopped") == "done"
    with pytest.raises(KeyError):
        await stoppable(pool, lambda _: fail())


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_cancelled_means_that_the_thread_has_ended(pool, reactor, times):
    """However often it is cancelled: who sees CancelledError knows that nothing of the work goes on."""
    work = Flagged()
    running = start(stoppable(pool, work.run))
    seen: list[tuple[bool, bool]] = []
    running.addErrback(lambda failure: seen.append((bool(failure.check(CancelledError)), work.ended)))
    for _ in range(times):
        running.cancel()
        await until(work.cleared.is_set, "the flag is set")
        await sleep(0.02, reactor)
    assert seen == []
    work.may_end.set()
    await running
    assert seen == [(True, True)]


async def test_a_failure_after_the_stop_is_a_cancellation(pool):
    """What the thread raises because it was stopped is not told as a fault."""

    def work(stop: Event) -> None:
        stop.wait(45)
        raise OSError("interrupted half-way")

    running = start(stoppable(pool, work))
    running.cancel()
    with pytest.raises(CancelledError):
        await running


async def test_a_stop_after_the_end_is_nothing(pool):
    """The result stays."""
    running = start(stoppable(pool, lambda _: "done"))
    result = await running
    running.cancel()
    assert result == "done"


def test_stoppable_inline():
    """With an inline pool it has ended before it could be stopped."""
    running: Deferred[str] = start(stoppable(InlinePool(), lambda _: "done"))
    assert running.result == "done"


@pytest.mark.parametrize("leaves", [False, True])
async def test_taking_loses_nothing(pool, leaves):
    """Who stays gets the result; that of one who has left is dropped, and he did not wait for it."""
    go, dropped = Event(), []

    def work() -> str:
        go.wait(45)
        return "opened"

    running = start(taking(pool, work, dropped.append))
    if leaves:
        running.cancel()
        with pytest.raises(CancelledError):
            await running
        go.set()
        await until(lambda: dropped == ["opened"], "it is dropped")
    else:
        go.set()
        assert await running == "opened"
        assert dropped == []
