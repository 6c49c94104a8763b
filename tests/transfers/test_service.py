"""The verbs: what is taken on, who may see it, and what can still be cancelled."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import func, select
from twisted.internet.defer import Deferred

from datahub.auth import Caller
from datahub.errors import Conflict, InvalidRequest, NoSpace, NotFound, NotPermitted, PassingFault, Unavailable
from datahub.kit.aio import start
from datahub.transfers import tables
from datahub.transfers.model import Filter, Status, Submission
from datahub.transfers.pipeline import LANES, STAGE
from datahub.work.tables import work
from tests.transfers.depot import START, Depot, caller


@pytest.fixture
def depot():
    depot = Depot()
    yield depot
    depot.end()


def a_submission(**more):
    return Submission(**{"product_id": "005", "destination_path": "file:///d/alice", **more})


def count(depot, table):
    return depot.store.now(lambda c: c.execute(select(func.count()).select_from(table)).scalar())


def find(depot, by, number):
    return start(depot.verbs.find(by, number)).result


async def ask(depot, verb, by, number):
    return await getattr(depot.verbs, verb)(by, number)


def test_a_submission_is_on_disk_before_it_is_announced(depot):
    """Record and work item are one transaction; the queue is told afterwards."""
    held = depot.store.gates["submit transfer"] = Deferred()
    submitting = start(depot.verbs.submit(caller(), a_submission(), None))
    assert not submitting.called
    assert depot.queue.lanes == []
    held.callback(None)
    number = submitting.result
    found = depot.transfer(number)
    assert (found.status, found.submitter, found.time_submitted) == (Status.SUBMITTED, "alice", START)
    assert (found.attempts, found.overwrite, found.checksum) == (0, False, None)
    place = depot.place(number)
    assert (place.lane, place.state, place.attempt) == (STAGE, "ready", 0)
    assert depot.queue.lanes == [STAGE]


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"product_id": "", "destination_path": ""}, "product_id", "Form did not specify product_id"),
        ({"destination_path": ""}, "destination_path", "Form did not specify destination_path"),
        ({"product_id": "a" * 4097}, "product_id", "product_id is longer than 4096 bytes"),
        ({"product_id": "ä" * 2049}, "product_id", "product_id is longer than 4096 bytes"),
        ({"destination_path": "file:///d/" + "a" * 4096}, "destination_path", "longer than 4096 bytes"),
        ({"destination_path": "gsiftp://h/p"}, "destination_path", "'gsiftp://h/p' must be a URL .* here: file://"),
        ({"destination_path": "/d/alice"}, "destination_path", "must be a URL of a scheme that has a mover"),
        ({"destination_path": "file://[/x"}, "destination_path", "must be a URL of a scheme that has a mover"),
        ({"destination_path": "file:///etc"}, "destination_path", "not below /d"),
        ({"product_id": "../secret"}, "product_id", r"has a '\.' or '\.\.' component"),
        ({"product_id": "/etc/passwd"}, "product_id", "is an absolute path"),
        ({"product_id": "a\0b"}, "product_id", "holds a NUL"),
        ({"checksum": "CRC:1"}, "checksum", "is not one of"),
    ],
)
async def test_what_can_never_be_right_is_refused(depot, fields, field, text):
    """The error names the field; nothing is written."""
    with pytest.raises(InvalidRequest, match=text) as refused:
        await depot.verbs.submit(caller(), a_submission(**fields), None)
    assert refused.value.field == field
    assert depot.store.names == []


async def test_without_any_mover(depot):
    """The text says where they are configured."""
    depot.movers.clear()
    with pytest.raises(InvalidRequest, match=r"none: see \[transfers.movers\]") as refused:
        await depot.verbs.submit(caller(), a_submission(), None)
    assert refused.value.code == "transfer.no_mover"


@pytest.mark.parametrize("error", [NoSpace("the disk is full"), Unavailable("away")])
async def test_what_can_not_be_kept_is_not_announced(depot, error):
    """The caller is told why."""
    depot.store.away["submit transfer"] = error
    with pytest.raises(type(error)):
        await depot.verbs.submit(caller(), a_submission(), None)
    assert depot.queue.lanes == []
    assert count(depot, tables.transfer) == 0


def test_a_unit_that_runs_twice_is_one_transfer(depot):
    """The store may run it again after a lost connection whose commit had arrived."""
    whole = depot.store.now
    depot.store.now = lambda work: (whole(work), whole(work))[1]
    number = depot.submit(key="k1")
    depot.store.now = whole
    assert count(depot, tables.transfer) == count(depot, work) == 1
    assert depot.submit(key="k1") == number


def test_the_same_key_is_the_same_transfer(depot):
    """However often it is sent; another caller's same key is another transfer."""
    first = depot.submit(key="k1")
    assert depot.submit(key="k1") == first
    assert depot.submit(by=caller("bob"), key="k1") != first
    assert depot.submit() != first
    assert count(depot, tables.transfer) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"product_id": "006"},
        {"destination_path": "file:///d/bob"},
        {"overwrite": True},
        {"checksum": "ADLER32:00000000"},
    ],
)
async def test_a_key_for_another_submission_is_a_conflict(depot, other):
    """Whichever field differs; nothing is written."""
    depot.submit(key="k1")
    with pytest.raises(Conflict, match="Idempotency-Key 'k1'"):
        await depot.verbs.submit(caller(), a_submission(**other), "k1")
    assert count(depot, tables.transfer) == count(depot, work) == 1


@pytest.mark.parametrize("verb", ["find", "cancel"])
async def test_what_is_not_there(depot, verb):
    """The text names the id."""
    with pytest.raises(NotFound, match=r"^job_id nothing not found$") as refused:
        await ask(depot, verb, caller(), "nothing")
    assert refused.value.code == "transfer.not_found"


ADMINS = [("admin",), ("transfers:admin",)]


@pytest.mark.parametrize("verb", ["find", "cancel"])
async def test_a_transfer_is_its_submitters(depot, verb):
    """And an administrator's; anybody else is told that it is not his."""
    number = depot.submit()
    with pytest.raises(NotPermitted, match=f"^'bob' does not match submitter for transfer {number}$"):
        await ask(depot, verb, caller("bob"), number)
    with pytest.raises(NotPermitted):
        await ask(depot, verb, caller("eve", "messages:admin", "read", "write"), number)
    assert depot.transfer(number).status is Status.SUBMITTED
    for scopes in ADMINS:
        other = depot.submit()
        assert (await ask(depot, verb, caller("root", *scopes), other)).transfer.id == other
    assert (await ask(depot, verb, caller(), number)).transfer.id == number


async def test_shared_transfers_are_read_by_all():
    """And cancelled by their submitter alone."""
    depot = Depot(shared=True)
    number = depot.submit()
    assert find(depot, caller("bob"), number).transfer.id == number
    with pytest.raises(NotPermitted):
        await depot.verbs.cancel(caller("bob"), number)
    depot.end()


async def test_what_anonymous_callers_submit_is_read_by_all(depot):
    """Their name is their address, which proves little: another address may look, and not cancel."""
    anonymous = Caller("anonymous@10.0.0.7", "anonymous", frozenset({"read", "write"}), "10.0.0.7")
    number = depot.submit(by=anonymous)
    assert find(depot, caller("bob"), number).transfer.submitter == "anonymous@10.0.0.7"
    with pytest.raises(NotPermitted):
        await depot.verbs.cancel(caller("bob"), number)
    assert (await depot.verbs.cancel(anonymous, number)).transfer.status is Status.CANCELLED


async def test_cancelled_before_it_has_begun(depot):
    """It is over at once, and no longer in the ledger; again is the same."""
    number = depot.submit()
    for _ in range(2):
        seen = await depot.verbs.cancel(caller(), number)
        assert (seen.transfer.status, seen.transfer.time_cancelled, seen.place) == (Status.CANCELLED, START, None)
    assert seen.transfer.detailed_status == "cancelled before anything was moved"


async def test_cancelled_between_the_lanes(depot):
    """Staged and waiting to be moved: nothing has to be undone."""
    number = depot.submit()
    depot.stage()
    assert (await depot.verbs.cancel(caller(), number)).transfer.status is Status.CANCELLED
    depot.move()
    assert depot.mover.calls == []


async def test_cancelled_while_it_runs(depot):
    """CANCELLING, and the hubs are told; again is the same."""
    number = depot.submit()
    depot.archive.answers = [Deferred()]
    depot.stage()
    depot.queue.lanes.clear()
    assert (await depot.verbs.cancel(caller(), number)).transfer.status is Status.CANCELLING
    assert depot.queue.lanes == list(LANES)
    assert (await depot.verbs.cancel(caller(), number)).transfer.status is Status.CANCELLING


async def test_cancelled_while_it_waits_for_a_retry(depot):
    """It does not wait any longer: the next attempt clears up at once."""
    number = depot.submit()
    depot.stage()
    depot.mover.answers["copy"] = [PassingFault("away")]
    depot.move()
    assert depot.place(number).state == "delayed"
    assert (await depot.verbs.cancel(caller(), number)).transfer.status is Status.CANCELLING
    depot.move()
    assert depot.transfer(number).status is Status.CANCELLED
    assert depot.mover.calls == ["copy", "discard"]


def set_status(number, status, connection):
    found = tables.find(connection, number)
    assert found is not None
    tables.change(connection, found, 0, status=status)


async def test_cancelled_too_late(depot):
    """What is ended, or is being given its final name, is told as it is."""
    number = depot.submit()
    depot.stage()
    depot.mover.answers["publish"] = [Deferred()]
    depot.move()
    with pytest.raises(Conflict, match=f"{number} can't be cancelled any more: it is being given its final name"):
        await depot.verbs.cancel(caller(), number)
    depot.store.now(partial(set_status, number, Status.SUCCESS))
    with pytest.raises(Conflict, match="it is SUCCESS") as refused:
        await depot.verbs.cancel(caller(), number)
    assert refused.value.code == "transfer.too_late"


async def test_cancelled_between_the_look_and_the_lock(depot):
    """The decision is made under the record's lock, not on what was seen before."""
    number = depot.submit()
    depot.store.before["cancel transfer"] = partial(set_status, number, Status.ERROR)
    with pytest.raises(Conflict, match="it is ERROR"):
        await depot.verbs.cancel(caller(), number)
    assert depot.place(number) is not None


def test_due_times_are_for_people(depot):
    """They follow the wall clock, also when that was set by an hour."""
    number = depot.submit()
    depot.archive.answers = [PassingFault("away")]
    depot.stage()
    depot.hub_clock.set(START + 3_600_000, -3_600_000)
    due = depot.seen(number).place.due
    assert due == depot.place(number).due + 3_600_000
    assert START + 3_600_000 < due < START + 3_602_000


async def test_cancelled_while_publishing_keeps_failing(depot):
    """Between two tries a cancel wins, and the copy is removed; if it was delivered after all, that is told."""
    for published, status in ((False, Status.CANCELLED), (True, Status.SUCCESS)):
        number = depot.submit()
        depot.stage()
        depot.mover.answers["publish"] = [PassingFault("the disk is away")]
        depot.move()
        assert depot.transfer(number).delivery is not None
        seen = await depot.verbs.cancel(caller(), number)
        assert seen.transfer.status is Status.CANCELLING
        depot.mover.published = published
        depot.move()
        assert depot.transfer(number).status is status
        assert depot.mover.calls[-1] == ("publish" if published else "discard")


async def test_a_full_disk_and_a_request_that_was_answered_before(depot):
    """Its answer is given again; what is new is refused, by submission and by retry."""
    number = depot.submit(key="k")
    depot.full = "no room"
    assert await depot.verbs.submit(caller(), a_submission(), "k") == number
    with pytest.raises(Conflict):
        await depot.verbs.submit(caller(), a_submission(priority=5), "k")
    for key in (None, "other"):
        with pytest.raises(NoSpace):
            await depot.verbs.submit(caller(), a_submission(), key)
    wanted = Filter(limit=10, statuses=(Status.ERROR,))
    with pytest.raises(NoSpace):
        await depot.verbs.for_each(caller(), wanted, "retry", dry_run=False)
    assert (await depot.verbs.for_each(caller(), wanted, "retry", dry_run=True))["would"] == []
