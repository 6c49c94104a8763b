"""The steps of a transfer: each fault, each restart, each cancellation has one way out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from datahub.errors import FinalFault, PassingFault
from datahub.kit.aio import start
from datahub.transfers import endings, tables
from datahub.transfers.endings import LONGEST_PAUSE
from datahub.transfers.model import Status, printable
from datahub.transfers.movers import Checksum, DeliveryLost
from datahub.transfers.pipeline import FTS, MOVE, STAGE
from datahub.transfers.tidying import TIDY
from datahub.work import presence
from tests.transfers.depot import DELIVERY, ME, START, Depot, caller


@pytest.fixture
def depot(monkeypatch):
    monkeypatch.setattr(endings, "uniform", lambda low, high: (low + high) / 2)
    depot = Depot()
    yield depot
    depot.end()


def cancel(depot, number):
    start(depot.verbs.cancel(caller(), number))


def staged(depot):
    """A transfer that waits to be moved."""
    number = depot.submit()
    depot.stage()
    assert depot.place(number).lane == MOVE
    return number


def test_the_way_through(depot):
    """Submitted, staged, moved, verified: each state's time is written when it is entered, and nothing is left."""
    number = depot.submit(checksum="ADLER32:0A1B2C3D", overwrite=True)
    depot.clock.advance(1)
    depot.stage()
    found = depot.transfer(number)
    assert (found.status, found.files, found.size) == (Status.STAGING, 1, 1000)
    assert (found.stager_path, found.stager_status) == (
        "/archive/005",
        "found in the archive: 1 file, 1000 bytes",
    )
    depot.clock.advance(1)
    copying = Deferred()
    depot.mover.answers["copy"] = [copying]
    depot.move()
    assert depot.transfer(number).status is Status.TRANSFERRING
    depot.clock.advance(1)
    copying.callback(DELIVERY)
    found = depot.transfer(number)
    assert found.status is Status.SUCCESS
    assert found.detailed_status == "delivered and verified: file:///d/alice/005"
    assert (found.checksums, found.delivery) == (DELIVERY.checksums, DELIVERY)
    times = (found.time_submitted, found.time_staging, found.time_staging_finished, found.time_transferring)
    assert times == (START, START + 1000, START + 1000, START + 2000)
    assert (found.time_success, found.time_error) == (START + 3000, None)
    assert depot.mover.calls == ["copy", "publish"]
    (order, _) = depot.mover.orders
    assert (order.transfer, order.destination, order.overwrite) == (number, "file:///d/alice", True)
    assert order.checksum == Checksum("adler32", "0a1b2c3d")
    assert depot.place(number) is None
    depot.clock.advance(0)


@pytest.mark.parametrize(
    ("error", "reason", "logged"),
    [
        (PassingFault("the archive is away"), "the archive is away", False),
        (TimeoutError("staging took longer than 60 s"), "staging took longer than 60 s", False),
        (KeyError("secret path"), "internal fault (KeyError), see the log", True),
    ],
)
@pytest.mark.parametrize("lane", [STAGE, MOVE])
def test_what_may_pass_is_tried_again(depot, lane, error, reason, logged):
    """With its reason for people; a fault of our own is in the log with its traceback, and only there."""
    number = depot.submit() if lane == STAGE else staged(depot)
    (depot.archive.answers if lane == STAGE else depot.mover.answers["copy"]).append(error)
    with capturedLogs() as events:
        depot.look(lane)
    found = depot.transfer(number)
    assert found.status is (Status.SUBMITTED if lane == STAGE else Status.TRANSFERRING)
    assert (found.detailed_status, found.attempts, found.failing_since) == (reason, 1, START)
    assert depot.place(number).state == "delayed"
    failures = [event["log_failure"].value for event in events if "log_failure" in event]
    assert failures == ([error] if logged else [])
    depot.wait_for_retry(number)
    depot.look()
    assert depot.transfer(number).status is Status.SUCCESS
    assert depot.transfer(number).failing_since is None


@pytest.mark.parametrize("lane", [STAGE, MOVE])
def test_what_will_not_pass_ends_it(depot, lane):
    """At once, with the reason; the temporaries of a move are discarded."""
    number = depot.submit() if lane == STAGE else staged(depot)
    (depot.archive.answers if lane == STAGE else depot.mover.answers["copy"]).append(FinalFault("no such product"))
    depot.look(lane)
    found = depot.transfer(number)
    assert (found.status, found.detailed_status, found.time_error) == (Status.ERROR, "no such product", START)
    assert found.attempts == 1
    assert depot.place(number) is None
    assert depot.mover.calls == ([] if lane == STAGE else ["copy", "discard"])


def test_a_final_fault_while_publishing_takes_the_copy_away(depot):
    """Something is in the way at the destination: what was copied does not stay, nor does its record."""
    number = staged(depot)
    depot.mover.answers["publish"] = [FinalFault("005 exists already")]
    depot.move()
    found = depot.transfer(number)
    assert (found.status, found.detailed_status, found.delivery) == (Status.ERROR, "005 exists already", None)
    assert depot.mover.calls == ["copy", "publish", "discard"]


def test_staging_has_its_time(depot):
    """An archive that does not answer is a fault that may pass, after the configured time."""
    number = depot.submit()
    depot.archive.answers = [Deferred()]
    depot.stage()
    depot.clock.advance(59.9)
    assert depot.transfer(number).status is Status.STAGING
    depot.clock.advance(0.1)
    assert depot.transfer(number).detailed_status == "staging took longer than 60 s"
    assert depot.transfer(number).status is Status.SUBMITTED


def test_pauses_grow_to_their_limit():
    """Twice as long each time, a quarter of an hour at most, and never all at the same moment."""
    depot = Depot(retry_for=10**9)
    number = depot.submit()
    depot.archive.answers = [PassingFault("away")] * 30
    pauses = []
    for _ in range(30):
        depot.stage()
        pauses.append(depot.wait_for_retry(number))
    for attempt, pause in enumerate(pauses):
        expected = min(LONGEST_PAUSE, 1000 * 2**attempt)
        assert 0.8 * expected - 1 <= pause <= 1.2 * expected + 1
    assert len({pause / LONGEST_PAUSE for pause in pauses[-10:]}) > 1
    depot.end()


def test_it_is_given_up_after_retry_for(monkeypatch):
    """Counted from the first of the failures in a row; the text says how often, since when and why."""
    monkeypatch.setattr(endings, "uniform", lambda low, high: 1.0)
    depot = Depot(retry_for=6)
    number = depot.submit()
    depot.archive.answers = [PassingFault("the archive is away")] * 9
    tries = 0
    while depot.place(number) is not None:
        depot.stage()
        tries += 1
        if depot.place(number) is not None:
            depot.wait_for_retry(number)
    found = depot.transfer(number)
    assert (tries, found.status, found.time_error) == (4, Status.ERROR, START + 7000)
    assert found.detailed_status == ("given up after 4 tries since 2026-03-01T09:30:00.250Z: the archive is away")
    depot.end()


def test_staging_ends_a_row_of_failures(depot):
    """What failed while staging is not counted against the move."""
    number = depot.submit()
    depot.archive.answers = [PassingFault("away")]
    depot.stage()
    depot.wait_for_retry(number)
    depot.stage()
    assert (depot.transfer(number).failing_since, depot.transfer(number).detailed_status) == (None, None)


def test_a_second_attempt_clears_up_after_the_first(depot):
    """Whatever the one before has left is removed, then it is copied anew, under another name."""
    number = staged(depot)
    depot.mover.answers["copy"] = [PassingFault("the disk is full")]
    depot.move()
    depot.wait_for_retry(number)
    depot.move()
    assert depot.mover.calls == ["copy", "discard", "copy", "publish"]
    first, *_, last = depot.mover.orders
    assert first.attempt != last.attempt
    assert depot.transfer(number).attempts == 2


def test_two_transfers_to_one_name(depot):
    """Where the destination lets one replace the other: the second waits until the first has ended, however it does."""
    depot.mover.claimed = "gsiftp://host:2811/d/005"
    first, second = staged(depot), staged(depot)
    copying = Deferred()
    depot.mover.answers["copy"] = [copying]
    depot.move()
    assert [each.transfer for each in depot.mover.orders] == [first]
    assert depot.transfer(second).detailed_status == f"transfer {first} is on its way to the same name, and goes first"
    depot.wait_for_retry(second)
    depot.move()
    copying.errback(FinalFault("no room"))
    assert depot.transfer(first).status is Status.ERROR
    depot.wait_for_retry(second)
    depot.move()
    assert depot.transfer(second).status is Status.SUCCESS
    told = zip(depot.mover.calls, depot.mover.orders, strict=True)
    assert [order.transfer for verb, order in told if verb == "copy"] == [first, second]


def test_what_is_at_a_former_fts_server_is_not_copied_here(depot):
    """Its job may be going on there: the operator hears which server is missing."""
    number = staged(depot)
    known: Any = {"fts_attempt": "a", "fts_jobid": "j", "fts_details": {"server": "https://fts:8446"}}
    depot.store.now(partial(tables.note, number=number, **known))
    depot.move()
    assert "https://fts:8446, which is not configured any more" in depot.transfer(number).detailed_status
    assert depot.mover.calls == []


def test_what_an_fts_server_was_to_move_and_never_had(depot):
    """It is moved here, where that is configured by now."""
    number = staged(depot)
    move = text("UPDATE work SET lane = :lane")
    depot.store.now(lambda connection: connection.execute(move, {"lane": FTS}))
    depot.look(FTS)
    depot.look(MOVE)
    assert depot.transfer(number).status is Status.SUCCESS


def test_what_was_given_up_leaves_nothing(depot):
    """An item of its own begins at its first attempt; what former ones left is discarded all the same."""
    number = staged(depot)
    depot.store.now(partial(tables.note, number=number, attempts=3))
    depot.move()
    assert depot.mover.calls == ["discard", "copy", "publish"]


def test_a_copy_that_is_on_record_is_published(depot):
    """After a crash between the two it is not copied again."""
    number = staged(depot)
    depot.mover.answers["publish"] = [PassingFault("the disk is away")]
    depot.move()
    assert depot.transfer(number).delivery == DELIVERY
    depot.wait_for_retry(number)
    depot.move()
    assert depot.mover.calls == ["copy", "publish", "publish"]
    assert depot.transfer(number).status is Status.SUCCESS


def test_a_lost_copy_is_made_again(depot):
    """The mover finds neither the temporary nor the final name: the record forgets it."""
    number = staged(depot)
    depot.mover.answers["publish"] = [DeliveryLost("the copy has gone")]
    depot.move()
    found = depot.transfer(number)
    assert (found.delivery, found.detailed_status) == (None, "the copy has gone")
    depot.wait_for_retry(number)
    depot.move()
    assert depot.mover.calls == ["copy", "publish", "discard", "copy", "publish"]
    assert depot.transfer(number).status is Status.SUCCESS


def test_a_late_attempt_never_publishes(depot):
    """Another hub has the work by now: the old copy gets no final name, and the record is not touched."""
    number = staged(depot)
    copying = Deferred()
    depot.mover.answers["copy"] = [copying]
    depot.move()
    before = depot.transfer(number)
    depot.store.now(partial(presence.take_back, owner=ME))
    copying.callback(DELIVERY)
    assert "publish" not in depot.mover.calls
    assert depot.transfer(number) == before
    assert depot.transfer(number).delivery is None


@pytest.mark.parametrize("verb", ["copy", "discard"])
def test_a_cancelled_move_publishes_nothing(depot, verb):
    """Cancelled after the copy was made, before it was put on record: it is discarded."""
    number = staged(depot)
    copying = Deferred()
    depot.mover.answers["copy"] = [copying]
    if verb == "discard":
        depot.mover.answers["discard"] = [PassingFault("the disk is away")]
    depot.move()
    cancel(depot, number)
    copying.callback(DELIVERY)
    depot.clock.advance(0)
    if verb == "discard":
        assert depot.transfer(number).status is Status.CANCELLING
        assert depot.transfer(number).detailed_status == "the disk is away"
        depot.wait_for_retry(number)
        depot.move()
    assert "publish" not in depot.mover.calls
    assert depot.mover.calls[-1] == "discard"
    assert depot.transfer(number).status is Status.CANCELLED
    assert depot.place(number) is None


def test_a_cancelled_copy_is_stopped(depot):
    """Its hub interrupts it; the next attempt clears up and tells."""
    number = staged(depot)
    depot.mover.answers["copy"] = [Deferred()]
    depot.move()
    cancel(depot, number)
    assert depot.transfer(number).status is Status.CANCELLING
    depot.interrupt(number)
    depot.clock.advance(0)
    found = depot.transfer(number)
    assert (found.status, found.time_cancelled) == (Status.CANCELLED, START)
    assert found.detailed_status == "cancelled; nothing of it is left at the destination"
    assert depot.mover.calls == ["copy", "discard"]


def test_a_cancelled_staging_is_stopped(depot):
    """Nothing was moved, so no mover is asked."""
    number = depot.submit()
    depot.archive.answers = [Deferred()]
    depot.stage()
    cancel(depot, number)
    depot.interrupt(number)
    depot.clock.advance(0)
    assert depot.transfer(number).status is Status.CANCELLED
    assert depot.mover.calls == []


def test_staging_that_ends_after_the_cancellation(depot):
    """The transfer is not handed on to be moved."""
    number = depot.submit()
    locating = Deferred()
    depot.archive.answers = [locating]
    depot.stage()
    cancel(depot, number)
    locating.errback(PassingFault("away"))
    depot.clock.advance(0)
    assert depot.transfer(number).status is Status.CANCELLED
    assert depot.place(number) is None


def test_a_cancelled_transfer_that_can_not_be_cleared_up():
    """Ends as an error that says so, when it has failed for retry_for."""
    depot = Depot(retry_for=1)
    number = staged(depot)
    depot.mover.answers["copy"] = [Deferred()]
    depot.mover.answers["discard"] = [PassingFault("the disk is away")] * 9
    depot.move()
    cancel(depot, number)
    depot.interrupt(number)
    for _ in range(5):
        depot.clock.advance(0)
        if depot.place(number) is None:
            break
        depot.wait_for_retry(number)
        depot.move()
    assert depot.transfer(number).status is Status.ERROR
    assert f"the disk is away; what may be left of it, .datahub-{number}-*" in str(
        depot.transfer(number).detailed_status
    )
    assert depot.place(number, TIDY) is not None
    depot.end()


def test_a_mover_that_is_gone_from_the_configuration(depot):
    """Is waited for: the text names what to configure."""
    number = staged(depot)
    mover = depot.movers.pop("file")
    depot.move()
    assert depot.transfer(number).detailed_status == (
        "no mover for file:// is configured any more: see [transfers.movers]"
    )
    depot.movers["file"] = mover
    depot.wait_for_retry(number)
    depot.move()
    assert depot.transfer(number).status is Status.SUCCESS


def test_progress_is_there_while_it_moves(depot):
    """And forgotten afterwards, however the attempt ends."""
    number = staged(depot)
    copying = Deferred()
    depot.mover.progress = 400
    depot.mover.answers["copy"] = [copying]
    depot.move()
    assert depot.pipeline.moved == {number: 400}
    copying.errback(PassingFault("away"))
    assert depot.pipeline.moved == {}


def test_paths_for_people():
    """Bytes that are not UTF-8 are written in hexadecimal; a database takes the text."""
    assert printable("/a/ü") == "/a/ü"
    assert printable("/a/\udcff") == "/a/\\xff"
