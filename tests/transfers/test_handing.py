"""Transfers that FTS carries out: handed over once, whatever crashes; followed; ended as FTS says, in truth."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from datahub.archive import Product
from datahub.errors import PassingFault
from datahub.kit.aio import start
from datahub.transfers import endings
from datahub.transfers.following import AT_ONCE
from datahub.transfers.handing import LOOK_AGAIN, SENDING
from datahub.transfers.landing import STOPPING
from datahub.transfers.model import Status
from datahub.transfers.pipeline import FTS
from datahub.transfers.view import view
from datahub.work import sweeper
from tests.transfers.depot import KEEP, caller
from tests.transfers.fts_depot import TARGET, FtsDepot


@pytest.fixture
def depot(monkeypatch):
    monkeypatch.setattr(endings, "uniform", lambda low, high: 1.0)
    depot = FtsDepot()
    yield depot
    depot.end()


def test_the_way_through(depot):
    """Handed over, parked without memory, followed, and SUCCESS with what FTS says of it."""
    number = depot.handed(priority=4)
    assert (depot.place(number).state, depot.transfer(number).status) == ("parked", Status.TRANSFERRING)
    waiting = view(depot.seen(number), depot.hub_clock.wall(), KEEP).waiting_on
    assert waiting is not None
    assert (waiting.what, waiting.next_at) == ("mover", None)
    (asked,) = depot.fake.submissions
    expected = {"sources": ["gsiftp://hub.example.org/archive/005"], "destinations": [f"{TARGET}005"]}
    assert asked["files"] == [{**expected, "checksum": "ADLER32", "filesize": 1000, "metadata": {"number": 0}}]
    assert asked["params"] == {
        "verify_checksum": "both",
        "overwrite": False,
        "dst_file_report": False,
        "retry": -1,
        "priority": 4,
        "max_time_in_queue": 168,
        "id_generator": "deterministic",
        "sid": depot.transfer(number).fts_attempt,
        "job_metadata": {"datahub": number, "careful": False},
    }
    depot.fake.run(depot.job(number))
    depot.follow()
    assert depot.transfer(number).fts_details["job_state"] == "ACTIVE"
    assert depot.transfer(number).status is Status.TRANSFERRING
    depot.fake.finish(depot.job(number))
    depot.follow()
    depot.follow()
    found = depot.transfer(number)
    assert (found.status, found.fts_attempt, found.files, found.size) == (Status.SUCCESS, None, 1, 1000)
    assert found.detailed_status == f"delivered and verified: {TARGET}005"
    assert found.checksums == {}
    details = {"server": "https://fts:8446", "job_id": found.fts_jobid, "job_state": "FINISHED"}
    assert found.fts_details == {**details, "files": {"FINISHED": 1}}
    assert (depot.place(number), depot.flights()) == (None, 0)


def test_many_are_asked_about_at_once():
    """In requests of a hundred, less often the older they are."""
    depot = FtsDepot()
    numbers = [depot.submit(destination_path=f"{TARGET}{each}") for each in range(250)]
    while any(depot.transfer(each).fts_jobid is None for each in numbers):
        depot.stage()
        depot.move()
    depot.fake.asked.clear()
    polls = []
    while depot.clock.seconds() < 300:
        before = len(depot.fake.asked)
        depot.follow()
        if len(depot.fake.asked) > before:
            polls.append(depot.clock.seconds())
    rounds = [path.count(",") + 1 for method, path in depot.fake.asked if method == "GET" and path.startswith("/jobs")]
    assert max(rounds) == AT_ONCE
    assert sum(rounds) / 250 < 40
    for each in numbers:
        depot.fake.finish(depot.job(each))
    while depot.flights():
        depot.follow()
    assert {depot.transfer(each).status for each in numbers} == {Status.SUCCESS}
    depot.end()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("purged", [None, "archived", "gone"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_crash_around_the_submission_copies_once(depot, moment, purged, overwrite):
    """Between FTS's answer and our commit, and the job is purged there by then: one copy, one SUCCESS."""
    depot.fake.reports = purged == "gone"
    gate = Deferred()
    (depot.fts.faults if moment == "before" else depot.fts.after).append(gate)
    if moment == "before":
        depot.fts.faults[:] = [None, None, gate]
    number = depot.handed(overwrite=overwrite)
    assert depot.place(number).state == "running"
    job = depot.job(number)
    if moment == "after":
        depot.fake.run(job)
        if purged:
            depot.fake.finish(job)
            depot.fake.purge(job, backup=purged == "archived")
    depot.crash()
    depot.fts.faults.clear()
    depot.fts.after.clear()
    depot.move()
    for _ in range(20):
        if depot.transfer(number).status.final:
            break
        if job in depot.fake.jobs:
            depot.fake.finish(job)
        depot.follow()
    assert depot.transfer(number).status is Status.SUCCESS
    assert depot.copies() == {f"{TARGET}005": 1}
    assert (depot.place(number), depot.flights()) == (None, 0)
    gate.cancel()


def test_a_checksum_that_was_asked_for(depot):
    """FTS compares it with both sides, and tells no other."""
    number = depot.handed(checksum="ADLER32:0ab40218")
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert depot.transfer(number).checksums == {"adler32": "0ab40218"}


def test_a_tree_that_arrives_in_part(depot):
    """FINISHEDDIRTY: the next job copies what is missing, and takes what is there for ours if it is the same."""
    depot.fake.reports = True
    product = Product("005", "005", Path("/archive/005"), is_directory=True, files=2, size=2000)
    depot.archive.answers = [product] * 3
    number = depot.handed()
    depot.fake.finish(depot.job(number), "FINISHED", "FAILED", reason="TRANSFER [110] Connection timed out")
    depot.follow()
    assert depot.transfer(number).fts_details["files"] == {"FINISHED": 1, "FAILED": 1}
    assert "1 of 2 files failed: TRANSFER [110]" in depot.transfer(number).detailed_status
    depot.wait_for_retry(number)
    depot.move()
    assert depot.fake.submissions[-1]["params"]["dst_file_report"]
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert depot.transfer(number).status is Status.SUCCESS
    assert depot.copies() == {f"{TARGET}005/a%20b": 1, f"{TARGET}005/c": 1}


def test_what_is_in_the_way_is_not_ours(depot):
    """At the first attempt it ends it, whatever it is."""
    depot.fake.there[f"{TARGET}005"] = (1000, "00000001")
    number = depot.handed()
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert depot.transfer(number).status is Status.ERROR
    assert depot.transfer(number).detailed_status.endswith("Destination file exists and overwrite is not enabled")


@pytest.mark.parametrize("reports", [False, True])
def test_what_an_earlier_job_could_not_remove(depot, reports):
    """The rest of a copy can't be told from somebody else's file: nothing is replaced, it is said what to do."""
    depot.fake.reports = reports
    number = depot.handed()
    depot.fake.finish(depot.job(number), "FAILED", reason="TRANSFER [70] Communication error on send")
    depot.fake.there[f"{TARGET}005"] = (400, "00000001")
    depot.follow()
    depot.wait_for_retry(number)
    depot.move()
    depot.fake.finish(depot.job(number))
    depot.follow()
    found = depot.transfer(number)
    assert found.status is Status.ERROR
    todo = f"or somebody else's: remove {TARGET}005{' (400 bytes of 1000)' * reports} if it can go, then retry"
    assert found.detailed_status.endswith(todo)
    del depot.fake.there[f"{TARGET}005"]
    start(depot.verbs.retry(caller(), number))
    depot.move()
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert (depot.transfer(number).status, depot.copies()) == (Status.SUCCESS, {f"{TARGET}005": 1})


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_older_file_is_replaced_after_a_hiccup(depot, overwrite):
    """The second job is careful and finds it foreign: if it may be replaced, the third one does."""
    depot.fake.there[f"{TARGET}005"] = (7, "00000001")
    number = depot.handed(overwrite=overwrite)
    depot.fake.finish(depot.job(number), "FAILED", reason="TRANSFER [110] Connection timed out")
    depot.follow()
    depot.wait_for_retry(number)
    depot.move()
    assert depot.fake.submissions[-1]["params"]["dst_file_report"]
    depot.fake.finish(depot.job(number))
    depot.follow()
    if overwrite:
        assert depot.transfer(number).status is Status.TRANSFERRING
        assert "then retry" not in depot.transfer(number).detailed_status
        depot.wait_for_retry(number)
        depot.move()
        assert depot.fake.submissions[-1]["params"]["overwrite"]
        depot.fake.finish(depot.job(number))
        depot.follow()
    assert depot.transfer(number).status is (Status.SUCCESS if overwrite else Status.ERROR)
    assert depot.copies() == ({f"{TARGET}005": 1} if overwrite else {})


def test_cancelled_at_fts_by_somebody_else(depot):
    """Is an end, not a reason to try again."""
    number = depot.handed()
    depot.fake._cancel(depot.fake.jobs[depot.job(number)])
    depot.follow()
    assert (depot.transfer(number).status, depot.flights()) == (Status.ERROR, 0)


@pytest.mark.parametrize("late", ["CANCELED", "FINISHED"])
def test_a_cancellation_is_true(depot, late):
    """CANCELLING until the copy has stopped; if it had ended by then, it is there, and that is what is told."""
    number = depot.handed()
    depot.fake.run(depot.job(number))
    start(depot.verbs.cancel(caller(), number))
    depot.move()
    assert depot.fake.jobs[depot.job(number)]["job_state"] == "CANCELED"
    for _ in range(3):
        depot.follow()
        assert depot.transfer(number).status is Status.CANCELLING
    depot.fake.stop_copies(depot.job(number), late)
    for _ in range(3):
        depot.follow()
    assert depot.transfer(number).status is (Status.CANCELLED if late == "CANCELED" else Status.SUCCESS)
    assert (depot.place(number), depot.flights()) == (None, 0)


def test_a_copy_that_never_stops(depot):
    """It is not waited for for ever, and nobody claims that nothing is left."""
    number = depot.handed()
    depot.fake.run(depot.job(number))
    start(depot.verbs.cancel(caller(), number))
    depot.move()
    for _ in range(60):
        depot.clock.advance(STOPPING / 1000 / 30)
        depot.store.now(partial(sweeper._wake, now=depot.hub_clock.now()))
        depot.look(FTS)
        depot.follow()
    assert depot.transfer(number).status is Status.CANCELLED
    assert "may still be written" in depot.transfer(number).detailed_status


@pytest.mark.parametrize("backup", [True, False])
def test_cancelled_when_the_job_has_gone(depot, backup):
    """What FTS has in its archive is asked for: the copy is there. If nobody knows, nothing is claimed of it."""
    number = depot.handed()
    depot.fake.run(depot.job(number))
    depot.fake.finish(depot.job(number))
    depot.fake.purge(depot.job(number), backup=backup)
    depot.clock.advance(SENDING / 1000)
    start(depot.verbs.cancel(caller(), number))
    depot.move()
    found = depot.transfer(number)
    assert found.status is (Status.SUCCESS if backup else Status.CANCELLED)
    assert "nothing of it is left" not in (found.detailed_status or "")


def test_cancelled_while_it_is_submitted(depot):
    """The submission is not cut in half; it is cancelled when FTS knows it."""
    gate = Deferred()
    depot.fts.faults = [None, None, gate]
    number = depot.handed()
    start(depot.verbs.cancel(caller(), number))
    depot.interrupt(number)
    depot.clock.advance(0)
    depot.move()
    assert depot.transfer(number).status is Status.CANCELLING
    gate.callback(None)
    depot.wait_for_retry(number)
    depot.move()
    depot.follow()
    assert depot.transfer(number).status is Status.CANCELLED
    assert depot.copies() == {}


def test_a_submission_begins_when_it_is_sent(depot):
    """However long finding and delegating took, a cancellation waits for the submission that is under way."""
    delegating, sending = Deferred(), Deferred()
    depot.fts.faults = [None, delegating, sending]
    number = depot.handed()
    assert depot.flights() == 0
    depot.clock.advance(SENDING / 1000)
    delegating.callback(None)
    assert depot.flights() == 1
    start(depot.verbs.cancel(caller(), number))
    depot.interrupt(number)
    depot.clock.advance(0)
    depot.move()
    assert depot.transfer(number).status is Status.CANCELLING
    sending.callback(None)
    depot.wait_for_retry(number)
    depot.move()
    depot.follow()
    assert (depot.transfer(number).status, depot.copies()) == (Status.CANCELLED, {})


def test_cancelled_before_it_was_submitted(depot):
    """FTS never hears of it."""
    depot.fts.faults = [PassingFault("away")]
    number = depot.handed()
    start(depot.verbs.cancel(caller(), number))
    depot.move()
    assert depot.transfer(number).status is Status.CANCELLED
    assert depot.fake.submissions == []


def test_a_job_that_nobody_knows_any_more(depot):
    """Purged without a trace while it was parked: told of, and handed over again, with care."""
    number = depot.handed()
    depot.fake.purge(depot.job(number), backup=False)
    depot.follow()
    assert depot.place(number).state == "ready"
    depot.move()
    assert "knows its job" in depot.transfer(number).detailed_status
    depot.wait_for_retry(number)
    depot.move()
    assert depot.fake.submissions[-1]["params"]["dst_file_report"]
    depot.fake.finish(depot.job(number))
    depot.clock.advance(60)
    depot.follow()
    assert depot.transfer(number).status is Status.SUCCESS


def test_it_is_looked_at_again_though_nobody_follows(depot):
    """The parked item has an end; then its step asks itself."""
    number = depot.handed()
    depot.clock.advance(LOOK_AGAIN / 1000 + 1)
    depot.store.now(partial(sweeper._wake, now=depot.hub_clock.now()))
    depot.move()
    assert depot.place(number).state == "parked"
    depot.fake.finish(depot.job(number))
    depot.clock.advance(LOOK_AGAIN / 1000 + 1)
    depot.store.now(partial(sweeper._wake, now=depot.hub_clock.now()))
    depot.move()
    assert depot.transfer(number).status is Status.SUCCESS
