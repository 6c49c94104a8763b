"""Reports: however many come at once and wherever, one settles the attempt, on each database."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection, select, update

from datahub.auth import Caller
from datahub.errors import InvalidRequest, NotPermitted, Superseded
from datahub.kit.aio import gather
from datahub.kit.clock import HubClock
from datahub.store import Store
from datahub.transfers import passcode, tables
from datahub.transfers.attempts import Attempts
from datahub.transfers.model import Status, Submission, Transfer
from datahub.transfers.pipeline import FTS, LANES, MOVE, STAGE, Limits
from datahub.transfers.reports import Reports, StagingReport, parse_success
from datahub.transfers.service import _new_transfer, actor_of
from datahub.work import Item, ledger
from datahub.work.lane import Floor
from datahub.work.tables import work
from tests.inline import Announcements
from tests.stores import opened

ME = "hub1:aa"
STRANGER = Caller("anonymous@10.0.0.1", "anonymous", frozenset(), "10.0.0.1")
ALICE = Caller("alice", "token", frozenset({"write"}), "10.0.0.2")


class Desk:
    """A transfer whose stager has been asked, and who takes the reports on it."""

    def __init__(self, store: Store, reactor: Any) -> None:
        self.store = store
        self.clock = HubClock()
        self.queue = Announcements()
        floor = Floor(store, self.queue, self.clock, reactor, ME)
        self.reports = Reports(floor, Limits(2, 2, 60, 60, handed=frozenset({"gsiftp"})))
        self.attempts = Attempts(store, self.clock, ME)
        self.new = _new_transfer(ALICE, Submission("005", "file:///d"), 1000)

    async def begin(self) -> Item:
        """Submit and claim."""

        def submit(connection: Any) -> list[Item]:
            for name in LANES:
                ledger.declare(connection, name, 4)
            tables.add(connection, self.new, actor_of(ALICE))
            ledger.enqueue(connection, STAGE, self.new.id, "alice")
            return ledger.claim(connection, STAGE, 1, ME)

        (item,) = await self.store.run("submit", submit)
        found = await self.store.run("begin", partial(tables.begin_staging, numbers=[self.new.id], now=2000))
        return Item(item.id, STAGE, self.new.id, "alice", item.attempt, None, found[self.new.id])

    async def transfer(self) -> Transfer:
        found = await self.store.read("find", partial(tables.find, number=self.new.id))
        assert found is not None
        return found

    async def lanes(self) -> list[str]:
        return await self.store.read("lanes", lambda c: list(c.execute(select(work.c.lane)).scalars()))

    def report(self, code: str, **others: Any) -> StagingReport:
        fields = {"success": "True", "staged_to": "h", "path": "/s/005", "msg": "done", "product_id": "005", **others}
        return StagingReport(job_id=self.new.id, authcode=code, **fields)

    async def refused(self, report: StagingReport) -> str:
        """Send a report that is refused: the reason."""
        with pytest.raises(NotPermitted) as caught:
            await self.reports.take(STRANGER, report)
        return caught.value.code


@pytest_twisted.async_yield_fixture
async def desk(database_url: str, reactor: Any) -> Any:
    """A desk on a fresh database."""
    async with opened(database_url, reactor) as store:
        yield Desk(store, reactor)


async def test_one_of_many_reports_settles(desk: Desk) -> None:
    """Sixteen different ones at once: one is taken, the others are refused; the owner of the item is superseded."""
    item = await desk.begin()
    errand = await desk.attempts.begin(item)
    taken: list[str] = []
    refused: list[str] = []

    async def send(path: str) -> None:
        try:
            await desk.reports.take(STRANGER, desk.report(errand.passcode, path=path))
        except NotPermitted as error:
            refused.append(error.code)
        else:
            taken.append(path)

    await gather(*(send(f"/s/{number}") for number in range(16)))
    transfer = await desk.transfer()
    assert taken == [transfer.stager_path]
    assert refused == ["transfer.reported"] * 15
    assert await desk.lanes() == [MOVE]
    with pytest.raises(Superseded):
        await desk.store.run("park", partial(ledger.park, item=item, owner=ME, until=1))


async def test_the_same_report_is_taken_again_and_again(desk: Desk) -> None:
    """Sixteen times at once, and after the move has begun: one change, one item."""
    errand = await desk.attempts.begin(await desk.begin())
    report = desk.report(errand.passcode)
    await gather(*(desk.reports.take(STRANGER, report) for _ in range(16)))
    assert await desk.lanes() == [MOVE]
    moving = await desk.store.run("begin", partial(tables.begin_moving, numbers=[desk.new.id], now=3000))
    await desk.reports.take(STRANGER, desk.report(errand.passcode, success="1", msg=" done\n"))
    assert await desk.transfer() == moving[desk.new.id]


async def test_an_attempt_outlasts_its_requests(desk: Desk) -> None:
    """Sent again it has the same passcode; the report counts while it waits to be sent again."""
    item = await desk.begin()
    first = await desk.attempts.begin(item)
    assert await desk.attempts.begin(item) == first

    def put_off(connection: Any) -> None:
        ledger.retry(connection, item, ME, 10**15)
        tables.change(connection, item.record, 1, status=Status.SUBMITTED)

    await desk.store.run("put off", put_off)
    await desk.reports.take(STRANGER, desk.report(first.passcode))
    transfer = await desk.transfer()
    assert (transfer.status, transfer.stager_hostname, transfer.stager_path) == (Status.STAGING, "h", "/s/005")
    assert await desk.lanes() == [MOVE]
    assert sorted(desk.queue.lanes) == sorted(LANES)


async def test_what_is_staged_for_fts(desk: Desk) -> None:
    """It goes on in FTS's own lane."""
    desk.new = _new_transfer(ALICE, Submission("005", "gsiftp://there/d"), 1000)
    errand = await desk.attempts.begin(await desk.begin())
    await desk.reports.take(STRANGER, desk.report(errand.passcode))
    assert await desk.lanes() == [FTS]


async def test_an_attempt_that_was_given_up_is_over(desk: Desk) -> None:
    """Its passcode is refused; before any attempt there is none that fits, nor one without."""
    item = await desk.begin()
    assert await desk.refused(desk.report("0" * 32)) == "transfer.authcode"
    errand = await desk.attempts.begin(item)
    before = await desk.transfer()
    for wrong in ("x", errand.passcode[:-1], errand.passcode + "0", "\u00e4" * 32):
        assert await desk.refused(desk.report(wrong)) == "transfer.authcode"
    assert await desk.refused(desk.report(errand.passcode, product_id="006")) == "transfer.authcode"
    assert await desk.transfer() == before
    await desk.attempts.give_up(item)
    assert await desk.refused(desk.report(errand.passcode)) == "transfer.authcode"
    assert await desk.lanes() == [STAGE]


async def test_a_superseded_owner_begins_nothing(desk: Desk) -> None:
    """Neither an attempt nor its end."""
    item = await desk.begin()
    await desk.store.run("bury", lambda c: c.execute(update(work).values(owner="other")))
    with pytest.raises(Superseded):
        await desk.attempts.begin(item)
    with pytest.raises(Superseded):
        await desk.attempts.give_up(item)


async def test_after_a_failure_a_new_attempt_has_its_own_passcode(desk: Desk) -> None:
    """Taken up again the old report changes nothing, and does not take the item off."""
    errand = await desk.attempts.begin(await desk.begin())
    failure = desk.report(errand.passcode, success="False", path="", msg="no tape")
    await desk.reports.take(STRANGER, failure)
    transfer = await desk.transfer()
    assert (transfer.status, transfer.detailed_status) == (Status.ERROR, "the stager failed: no tape")
    assert await desk.lanes() == []

    def again(connection: Any) -> list[Item]:
        tables.change(connection, transfer, 1, status=Status.SUBMITTED)
        ledger.enqueue(connection, STAGE, transfer.id, "alice")
        return ledger.claim(connection, STAGE, 1, ME)

    (item,) = await desk.store.run("retry", again)
    await desk.reports.take(STRANGER, failure)
    assert await desk.lanes() == [STAGE]
    found = await desk.store.run("begin", partial(tables.begin_staging, numbers=[transfer.id], now=1))
    item = Item(item.id, STAGE, transfer.id, "alice", item.attempt, None, found[transfer.id])
    assert (await desk.attempts.begin(item)).passcode != errand.passcode
    assert await desk.refused(failure) == "transfer.authcode"


def _fits(code: str, parts: dict[str, str], connection: Connection) -> bool:
    return passcode.fits(connection, code, **parts)


async def test_hubs_make_one_secret(desk: Desk) -> None:
    """However many of them ask for it first."""
    make = partial(passcode.make, job="j", product="p", attempt="1.1")
    codes = await gather(*(desk.store.run("make", make) for _ in range(8)))
    assert len(set(codes)) == 1
    assert len(codes[0]) == passcode.LENGTH
    known = {"job": "j", "product": "p", "attempt": "1.1"}
    assert await desk.store.read("fits", partial(_fits, codes[0], known))
    for other in ({"job": "jp", "product": ""}, {"product": "p1", "attempt": ".1"}, {"attempt": "1.2"}):
        parts = known | other
        assert not await desk.store.read("fits", partial(_fits, codes[0], parts))


@pytest.mark.parametrize(
    "fields", [{"path": "/" + "x" * 4096}, {"staged_to": "h" * 256}, {"success": "maybe"}, {"success": 2}]
)
async def test_what_can_never_be_right_is_named(tmp_path: Any, reactor: Any, fields: dict[str, Any]) -> None:
    """And needs no database."""
    async with opened(f"sqlite:///{tmp_path / 'x.sqlite'}", reactor) as store:
        desk = Desk(store, reactor)
        with pytest.raises(InvalidRequest) as caught:
            await desk.reports.take(STRANGER, desk.report("x", **fields))
        assert caught.value.field in fields


def test_success_is_understood_as_text() -> None:
    """Text that says no is no, although it is text."""
    assert all(parse_success(value) for value in ("True", "true", "1", "yes", "YES ", True, 1))
    assert not any(parse_success(value) for value in ("False", "false", "0", "no", "", " ", False, 0))
