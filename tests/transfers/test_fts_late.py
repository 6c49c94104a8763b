"""Jobs that FTS never ends: the hub waits for none for ever, and copies nothing at the side of what may go on there."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from datahub.errors import PassingFault
from datahub.kit.aio import start
from datahub.transfers import endings
from datahub.transfers.endings import LONGEST_PAUSE
from datahub.transfers.handing import LOOK_AGAIN
from datahub.transfers.landing import STOPPING
from datahub.transfers.model import Status
from datahub.transfers.movers import fts_jobs
from datahub.work import sweeper
from tests.transfers.depot import caller
from tests.transfers.fts_depot import TARGET, TIMEOUT, FtsDepot

LATE = TIMEOUT + fts_jobs.COPYING + 60
"""Seconds after which a job of a small file is too old."""


@pytest.fixture
def depot(monkeypatch):
    monkeypatch.setattr(endings, "uniform", lambda low, high: 1.0)
    depot = FtsDepot()
    yield depot
    depot.end()


def let_go_by(depot: FtsDepot, seconds: float) -> None:
    """Let time go by with all that happens in it now and then: the step looks itself, and the follower."""
    while seconds > 0:
        some = min(seconds, LOOK_AGAIN / 1000 + 1)
        depot.clock.advance(some)
        depot.store.now(partial(sweeper._wake, now=depot.hub_clock.now()))
        depot.move()
        depot.follow()
        depot.move()
        seconds -= some


def wait_for_stop(depot: FtsDepot, number: str) -> None:
    """Let as much time go by as a copy has to stop, with some looks in it."""
    end = depot.clock.seconds() + 2 * STOPPING / 1000
    while depot.clock.seconds() < end and (place := depot.place(number)) and place.state == "parked":
        depot.clock.advance(STOPPING / 1000 / 15)
        depot.follow()


def job_state(depot: FtsDepot, job: str) -> str:
    return str(depot.fake.jobs[job]["job_state"])


def test_a_job_that_waits_for_ever(depot):
    """However often it was looked at in between: cancelled there, told of, handed over anew; copied once."""
    number = depot.handed()
    job = depot.job(number)
    let_go_by(depot, TIMEOUT)
    assert (job_state(depot, job), depot.transfer(number).status) == ("SUBMITTED", Status.TRANSFERRING)
    let_go_by(depot, LATE - TIMEOUT)
    assert job_state(depot, job) == "CANCELED"
    depot.follow()
    told = f"https://fts:8446: the job {job} had not ended 7.1 d after it was handed over, and was cancelled"
    assert depot.transfer(number).detailed_status == told
    assert depot.transfer(number).status is Status.TRANSFERRING
    depot.wait_for_retry(number)
    depot.move()
    assert depot.fake.submissions[-1]["params"]["dst_file_report"]
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert depot.transfer(number).status is Status.SUCCESS
    assert (depot.copies(), depot.flights()) == ({f"{TARGET}005": 1}, 0)


@pytest.mark.parametrize("stops", ["CANCELED", "FINISHED", None])
def test_a_copy_that_runs_for_ever(depot, stops):
    """Who copies has died there: nothing is begun anew before it has stopped, or has had its time for that."""
    number = depot.handed()
    job = depot.job(number)
    depot.fake.run(job)
    depot.follow()
    let_go_by(depot, LATE)
    for _ in range(3):
        depot.follow()
        assert (job_state(depot, job), depot.place(number).state) == ("CANCELED", "parked")
    if stops:
        depot.fake.stop_copies(job, stops)
        depot.follow()
    else:
        wait_for_stop(depot, number)
    if stops != "FINISHED":
        found = depot.transfer(number)
        assert (found.status, depot.place(number).state) == (Status.TRANSFERRING, "delayed")
        assert found.detailed_status.endswith("a copy has not stopped since") == (stops is None)
        depot.wait_for_retry(number)
        depot.move()
        depot.fake.finish(depot.job(number))
        depot.follow()
    assert depot.transfer(number).status is Status.SUCCESS
    assert depot.copies() == {f"{TARGET}005": 1}
    assert len(depot.fake.submissions) == (1 if stops == "FINISHED" else 2)


def test_a_large_file_has_more_time(depot):
    """As FTS gives it."""
    depot.tree.size = 2**40
    number = depot.handed()
    depot.fake.run(depot.job(number))
    let_go_by(depot, TIMEOUT + 2**20)
    depot.follow()
    assert job_state(depot, depot.job(number)) == "ACTIVE"
    let_go_by(depot, 2**20 + fts_jobs.COPYING)
    depot.follow()
    assert job_state(depot, depot.job(number)) == "CANCELED"


def test_a_cancellation_that_fails_at_first(depot):
    """It is asked for again: what is due stays so, whichever hub looks next."""
    number = depot.handed()
    let_go_by(depot, LATE - 120)
    depot.clock.advance(120)
    depot.fts.faults = [None, PassingFault("the FTS server is silent")]
    depot.follow()
    assert job_state(depot, depot.job(number)) == "SUBMITTED"
    depot.crash()
    depot.follow()
    assert job_state(depot, depot.job(number)) == "CANCELED"


@pytest.mark.parametrize("asked", [False, True])
def test_a_cancellation_that_is_never_carried_out(depot, asked):
    """FTS says that it cancels, and goes on: no other job is set beside that one, the slot is free, the truth told."""
    number = depot.handed()
    job = depot.job(number)
    depot.fake.run(job)
    depot.fake.manner = "deaf"
    if asked:
        start(depot.verbs.cancel(caller(), number))
        depot.move()
    else:
        let_go_by(depot, LATE)
    wait_for_stop(depot, number)
    let_go_by(depot, STOPPING / 1000)
    found = depot.transfer(number)
    assert (depot.place(number), depot.flights(), len(depot.fake.submissions)) == (None, 0, 1)
    if asked:
        assert found.status is Status.CANCELLED
        assert "may still be written" in found.detailed_status
        return
    assert found.status is Status.ERROR
    assert f"was told to cancel the job {job}" in found.detailed_status
    assert "(it is ACTIVE)" in found.detailed_status
    depot.fake.manner = "waits"
    depot.fake.finish(job)
    start(depot.verbs.retry(caller(), number))
    depot.move()
    assert depot.fake.submissions[-1]["params"]["overwrite"] is False
    assert depot.job(number) != job


def test_others_go_on_meanwhile(depot):
    """That one job is late is nothing to those beside it."""
    late = depot.handed(destination_path=f"{TARGET}late")
    let_go_by(depot, LATE)
    other = depot.handed(destination_path=f"{TARGET}other")
    depot.fake.manner = "deaf"
    depot.fake.finish(depot.job(other))
    depot.follow()
    assert [depot.transfer(each).status for each in (late, other)] == [Status.TRANSFERRING, Status.SUCCESS]


def test_what_fts_gives_up_in_its_queue(depot):
    """It is told how long that may be; what it says then is a fault, not that somebody has cancelled it."""
    number = depot.handed_tree()
    job = depot.job(number)
    depot.fake._end(depot.fake.jobs[job], depot.fake.jobs[job]["files"][0], "FINISHED", "")
    let_go_by(depot, TIMEOUT)
    depot.fake.expire(job)
    let_go_by(depot, 1)
    found = depot.transfer(number)
    assert found.status is Status.TRANSFERRING
    assert "1 of 2 files failed: Job has been canceled because it stayed in the queue" in found.detailed_status
    depot.wait_for_retry(number)
    depot.move()
    assert len(depot.fake.submissions[-1]["files"]) == 1
    let_go_by(depot, TIMEOUT)
    depot.fake.expire(depot.job(number))
    let_go_by(depot, 1)
    assert depot.transfer(number).status is Status.ERROR
    assert "given up after" in depot.transfer(number).detailed_status


def test_a_job_that_gets_lost_again_and_again(depot):
    """A server that takes each job and knows it no more keeps no slot for ever."""
    number = depot.handed()
    for _ in range(2):
        depot.clock.advance(3700)
        depot.fake.purge(depot.job(number), backup=False)
        depot.follow()
        depot.move()
        if not depot.transfer(number).status.final:
            depot.wait_for_retry(number)
            depot.move()
    found = depot.transfer(number)
    assert found.status is Status.ERROR
    assert "given up after" in found.detailed_status
    assert "knows its job" in found.detailed_status


def test_a_server_that_is_never_seen_again(depot, monkeypatch):
    """Its transfers end, when it was tried for long enough; if it comes back, what it still has to do is cancelled."""
    number = depot.handed()
    job, ask = depot.job(number), depot.fts._ask

    async def away(*_: object) -> Any:
        raise PassingFault("the FTS server is silent")

    monkeypatch.setattr(depot.fts, "_ask", away)
    begun = depot.clock.seconds()
    while not depot.transfer(number).status.final:
        let_go_by(depot, LONGEST_PAUSE / 1000)
    assert depot.clock.seconds() - begun < LOOK_AGAIN / 1000 + 3600 + 4 * LONGEST_PAUSE / 1000
    found = depot.transfer(number)
    assert (found.status, depot.place(number)) == (Status.ERROR, None)
    assert "given up after" in found.detailed_status
    monkeypatch.setattr(depot.fts, "_ask", ask)
    let_go_by(depot, 60)
    assert (job_state(depot, job), depot.flights()) == ("SUBMITTED", 1)
    let_go_by(depot, LATE)
    depot.follow()
    assert (job_state(depot, job), depot.flights()) == ("CANCELED", 0)
    assert depot.transfer(number).status is Status.ERROR
