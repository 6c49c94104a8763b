"""What goes wrong at FTS, or on the way there: what is tried again, what is an end, and what is told of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datahub.archive import Product
from datahub.errors import FinalFault, PassingFault, Unavailable
from datahub.kit.aio import start
from datahub.transfers import endings
from datahub.transfers.endings import LONGEST_PAUSE
from datahub.transfers.following import AWAY
from datahub.transfers.handing import LOOK_AGAIN, SENDING
from datahub.transfers.model import Status
from datahub.transfers.movers.fts import Asked, TooLarge
from datahub.work import sweeper
from tests.transfers.depot import caller
from tests.transfers.fts_depot import TARGET, FtsDepot

TIMED_OUT = "TRANSFER [110] Connection timed out"


@pytest.fixture
def depot(monkeypatch):
    monkeypatch.setattr(endings, "uniform", lambda low, high: 1.0)
    depot = FtsDepot()
    yield depot
    depot.end()


def test_a_job_that_is_not_shown(depot):
    """The hub came back under another name: nothing is copied a second time, nor given up; the reason is told."""
    number = depot.handed()
    name, depot.fake.name = depot.fake.name, "/CN=other"
    depot.follow()
    depot.move()
    found = depot.transfer(number)
    assert (found.status, depot.place(number).state) == (Status.TRANSFERRING, "delayed")
    assert "does not show the hub its job: Not enough permissions" in found.detailed_status
    assert len(depot.fake.submissions) == 1
    depot.fake.name = name
    depot.wait_for_retry(number)
    depot.move()
    depot.fake.finish(depot.job(number))
    depot.clock.advance(60)
    depot.follow()
    assert (depot.transfer(number).status, len(depot.fake.submissions)) == (Status.SUCCESS, 1)


@pytest.mark.parametrize(
    ("manner", "told"), [("banned", "403: The user has been banned"), ("unknown_caller", "401: A")]
)
def test_who_is_not_let_in_yet(depot, manner, told):
    """A certificate that is not known, a ban by mistake: a night's transfers don't end; what to look at is named."""
    depot.fake.manner = manner
    number = depot.handed()
    found = depot.transfer(number)
    assert (found.status, depot.place(number).state) == (Status.TRANSFERRING, "delayed")
    assert f"https://fts:8446 answered {told}" in found.detailed_status
    assert found.detailed_status.endswith("; is hub.pem known to a VO there, and not banned?")
    depot.fake.manner = "waits"
    depot.wait_for_retry(number)
    depot.move()
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert (depot.transfer(number).status, depot.transfer(number).failing_since) == (Status.SUCCESS, None)


def test_who_is_never_let_in(depot):
    """It has its end, after the time for which faults are tried again."""
    depot.fake.manner = "banned"
    number = depot.handed()
    while not depot.transfer(number).status.final:
        depot.wait_for_retry(number)
        depot.move()
    assert 3600 <= depot.clock.seconds() < 3600 + 2 * LONGEST_PAUSE / 1000
    assert "given up after" in depot.transfer(number).detailed_status


def test_a_url_that_is_too_long_for_it(depot):
    """FTS would answer 500 for ever."""
    number = depot.handed(destination_path=TARGET + "x" * 1100)
    found = depot.transfer(number)
    assert found.status is Status.ERROR
    assert "FTS takes no URL of more than 1100 characters: gsiftp://there.example.org" in found.detailed_status


def test_a_lost_answer_is_found_again(depot):
    """FTS has the job, the hub heard nothing: it asks by the id that the job must have."""
    depot.fts.after = [PassingFault("the FTS server is silent")]
    number = depot.handed()
    assert depot.place(number).state == "delayed"
    depot.wait_for_retry(number)
    depot.move()
    assert (depot.place(number).state, len(depot.fake.submissions)) == ("parked", 1)


def test_a_server_that_is_away(depot):
    """Before the submission it is tried again; later the follower rests, and goes on."""
    depot.fts.faults = [PassingFault("the FTS server is away")]
    number = depot.handed()
    assert depot.transfer(number).detailed_status == "the FTS server is away"
    depot.wait_for_retry(number)
    depot.move()
    depot.fts.faults = [PassingFault("away")] * 3
    for _ in range(4):
        depot.follow()
    depot.fake.finish(depot.job(number))
    depot.clock.advance(60)
    depot.follow()
    depot.follow()
    assert depot.transfer(number).status is Status.SUCCESS


def test_what_kept_it_from_fts_is_over_when_it_is_there(depot):
    """FTS was away, took the job, and failed it later than that is tried again: the fault is told of anew."""
    depot.fts.faults = [PassingFault("the FTS server is away")]
    number = depot.handed()
    depot.fts.after = [PassingFault("the FTS server is silent")]
    for _ in range(2):
        depot.wait_for_retry(number)
        depot.move()
    assert depot.place(number).state == "parked"
    assert depot.transfer(number).failing_since is None
    depot.clock.advance(3601)
    depot.fake.finish(depot.job(number), "FAILED", reason=TIMED_OUT)
    depot.follow()
    found = depot.transfer(number)
    assert (found.status, found.failing_since) == (Status.TRANSFERRING, depot.hub_clock.wall())


@pytest.mark.parametrize("gets_on", [False, True])
def test_jobs_that_fail_again_and_again(depot, gets_on):
    """That FTS takes one job after the other is no end of the fault, but that one has copied some of the files is."""
    product = Product("005", "005", Path("/archive/005"), is_directory=True, files=2, size=2000)
    depot.archive.answers = [product] * 9
    number = depot.handed()
    depot.fake.finish(depot.job(number), "FAILED", reason=TIMED_OUT)
    depot.follow()
    depot.wait_for_retry(number)
    depot.move()
    assert depot.transfer(number).failing_since is None
    depot.clock.advance(3601)
    depot.fake.finish(depot.job(number), *(["FINISHED"] if gets_on else []), "FAILED", reason=TIMED_OUT)
    depot.follow()
    assert depot.transfer(number).status is (Status.TRANSFERRING if gets_on else Status.ERROR)
    assert gets_on or "given up after 2 tries since" in depot.transfer(number).detailed_status


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("SOURCE [2] No such file or directory", Status.ERROR),
        ("DESTINATION [13] Permission denied", Status.ERROR),
        (TIMED_OUT, Status.TRANSFERRING),
        ("TRANSFER [5] something that nobody has seen", Status.TRANSFERRING),
        ("Ein neuer Text", Status.TRANSFERRING),
    ],
)
def test_a_failure_at_fts(depot, reason, status):
    """What will not pass ends it; all else is tried again by another job, and the text is kept whole."""
    number = depot.handed()
    job = depot.job(number)
    depot.fake.finish(job, "FAILED", reason=reason)
    depot.follow()
    found = depot.transfer(number)
    assert (found.status, found.detailed_status) == (status, f"https://fts:8446: {reason}")
    assert found.fts_details["failures"] == [{"destination": f"{TARGET}005", "state": "FAILED", "reason": reason}]
    if status is Status.TRANSFERRING:
        depot.wait_for_retry(number)
        depot.move()
        assert depot.job(number) != job
        depot.fake.finish(depot.job(number))
        depot.follow()
        assert depot.transfer(number).status is Status.SUCCESS
    assert depot.flights() == 0


async def test_reasons_that_nobody_knows(depot, monkeypatch):
    """Counted when their end is on disk, once however often that was rolled back; the last is told without places."""
    run, rolled_back = depot.store.run, []

    async def unsteady(name: str, work: Any) -> Any:
        if name == "settle what FTS did" and len(rolled_back) < 2:
            with pytest.raises(ZeroDivisionError):
                depot.store.now(lambda connection: (work(connection), 1 // 0))
            rolled_back.append(name)
            raise Unavailable("the database is away")
        return await run(name, work)

    monkeypatch.setattr(depot.store, "run", unsteady)
    for text in ("Ein alter Text", "Ein neuer Text von gsiftp://there/home/alice/005 zu /x"):
        number = depot.handed()
        depot.fake.finish(depot.job(number), "FAILED", reason=text)
        for _ in range(3):
            depot.follow()
        assert text in depot.transfer(number).detailed_status
    assert len(rolled_back) == 2
    summary = depot.handing.reasons.beside(await depot.verbs.summary())
    last = summary.unknown_reasons.last
    assert (summary.unknown_reasons.count, last) == (2, "Ein neuer Text von … zu …")


def test_a_hub_that_does_not_know_the_server(depot):
    """Leaves following to the hubs that do, rather than end it for all."""
    number = depot.handed()
    depot.fake.finish(depot.job(number))
    known, depot.handing._following._servers = depot.handing._following._servers, {}
    depot.follow()
    assert depot.transfer(number).status is Status.TRANSFERRING
    depot.handing._following._servers = known
    depot.follow()
    assert depot.transfer(number).status is Status.SUCCESS


def test_an_answer_that_is_too_large(monkeypatch):
    """Less is asked for at once; a single job that is too large waits, and all others go on."""
    depot = FtsDepot()
    numbers = [depot.handed(overwrite=True) for _ in range(5)]
    huge, ask = depot.job(numbers[0]), depot.fts._ask

    async def limited(method: str, path: str, *more: Any) -> Asked:
        if huge in path or path.partition("?")[0].count(",") > 1:
            raise TooLarge("the answer is too large")
        return await ask(method, path, *more)

    monkeypatch.setattr(depot.fts, "_ask", limited)
    for each in numbers:
        depot.fake.finish(depot.job(each))
    depot.follow()
    assert [depot.transfer(each).status for each in numbers] == [Status.TRANSFERRING] + [Status.SUCCESS] * 4
    depot.end()


@pytest.mark.parametrize(
    "answer", [(500, b"<html>Internal Server Error"), (200, b"<html>Welcome"), (200, b'{"job_id": 3}')]
)
def test_a_job_of_which_fts_can_not_tell(depot, monkeypatch, answer):
    """Whatever is asked together with it is no answer: it is found out, and all others go on."""
    numbers = [depot.handed(overwrite=True) for _ in range(7)]
    poisoned, ask = depot.job(numbers[2]), depot.fts._ask

    async def choke(method: str, path: str, *more: Any) -> Asked:
        return Asked(*answer) if poisoned in path else await ask(method, path, *more)

    monkeypatch.setattr(depot.fts, "_ask", choke)
    for each in numbers:
        depot.fake.finish(depot.job(each))
    depot.follow()
    ends = [Status.SUCCESS] * 2 + [Status.TRANSFERRING] + [Status.SUCCESS] * 4
    assert [depot.transfer(each).status for each in numbers] == ends
    monkeypatch.undo()
    depot.follow()
    assert depot.transfer(numbers[2]).status is Status.SUCCESS


def test_a_server_in_trouble_is_not_asked_about_each_job(depot):
    """That would be another trouble for it: after a request and its halves all jobs are left for a while."""
    numbers = [depot.handed(overwrite=True) for _ in range(64)]
    for each in numbers:
        depot.fake.finish(depot.job(each))
    depot.fake.manner = "broken"
    before = len(depot.fake.asked)
    depot.follow()
    assert len(depot.fake.asked) == before + 3
    depot.fake.manner = "waits"
    depot.clock.advance(AWAY / 1000)
    depot.follow()
    assert {depot.transfer(each).status for each in numbers} == {Status.SUCCESS}


def test_a_refused_submission_ends_it(depot):
    """And leaves nothing to be followed for ever."""
    depot.fts.faults = [None, None, FinalFault("https://fts:8446 answered 400: Invalid job")]
    number = depot.handed()
    assert depot.transfer(number).status is Status.ERROR
    depot.clock.advance(SENDING / 1000)
    depot.follow()
    assert depot.flights() == 0


def test_a_proxy_that_can_not_be_delegated(depot, monkeypatch):
    """Jobs that are there are followed all the same: to ask about them takes none."""
    number = depot.handed()

    async def delegate() -> int:
        raise PassingFault("the FTS server answered 403: The user has been banned")

    monkeypatch.setattr(depot.fts, "delegate", delegate)
    depot.fake.finish(depot.job(number))
    depot.clock.advance(60)
    depot.follow()
    assert depot.transfer(number).status is Status.SUCCESS


def test_a_page_that_refuses_the_hub(depot):
    """It is no end of a transfer that is there, nor of its cancellation, which is asked for again."""
    number = depot.handed()
    depot.fake.manner = "banned"
    depot.clock.advance(LOOK_AGAIN / 1000 + 1)
    depot.store.now(partial(sweeper._wake, now=depot.hub_clock.now()))
    depot.move()
    assert depot.transfer(number).status is Status.TRANSFERRING
    start(depot.verbs.cancel(caller(), number))
    depot.move()
    assert (depot.transfer(number).status, depot.fake.jobs[depot.job(number)]["cancel_job"]) == (
        Status.CANCELLING,
        False,
    )
    depot.fake.manner = "waits"
    depot.wait_for_retry(number)
    depot.move()
    depot.follow()
    assert (depot.transfer(number).status, depot.fake.jobs[depot.job(number)]["cancel_job"]) == (Status.CANCELLED, True)
