"""Which transfers are said to be stuck."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from datahub.errors import PassingFault
from datahub.transfers import tables
from datahub.transfers.stuck import StuckWatch
from tests.transfers.depot import DELIVERY, Depot, caller

ALICE = {"Authorization": "Bearer alice-token"}


@pytest.fixture
def depot():
    depot = Depot(retry_for=1e6)
    yield depot
    depot.end()


async def stuck(depot):
    await StuckWatch(depot.store, depot.hub_clock).look()
    reply = await depot.client().ask("GET", "/transfers?stuck=1&submitter=me", headers=ALICE)
    return [each["job_id"] for each in reply.json["items"]]


def deliver(depot, seconds, destination="file:///d/alice"):
    """Deliver something, which takes ``seconds`` from the claim to the end."""
    number = depot.submit(destination_path=destination)
    depot.stage()
    copying = Deferred()
    depot.mover.answers["copy"] = [copying]
    depot.move()
    depot.clock.advance(seconds)
    copying.callback(DELIVERY)
    return number


async def test_much_longer_than_usual(depot):
    """Three times the longest of late at the same destination, ten minutes at least; told in the log and an event."""
    deliver(depot, 400)
    deliver(depot, 30, "file:///d/bob")
    slow, quick = depot.submit(), depot.submit(destination_path="file:///d/bob")
    depot.stage()
    copying = [Deferred(), Deferred()]
    depot.mover.answers["copy"] = list(copying)
    depot.move()
    depot.clock.advance(599)
    assert await stuck(depot) == []
    depot.clock.advance(2)
    with capturedLogs() as logged:
        assert await stuck(depot) == [quick]
    assert [event["id"] for event in logged] == [quick]
    assert await stuck(depot) == [quick]
    depot.clock.advance(600)
    assert set(await stuck(depot)) == {slow, quick}
    shown = await depot.client().ask("GET", f"/transfers/{quick}", headers=ALICE)
    assert shown.json["stuck_since"] == shown.json["time_transferring"]
    events = await depot.verbs.timeline(caller(), quick)
    assert events[-1].type == "transfer.stuck"
    for each in copying:
        each.callback(DELIVERY)
    assert await stuck(depot) == []
    assert depot.transfer(quick).stuck_at is None


async def test_where_nothing_was_ever_delivered(depot):
    """An hour is much; elsewhere counts when this destination is new."""
    number = depot.submit()
    depot.clock.advance(3599)
    assert await stuck(depot) == []
    depot.clock.advance(2)
    assert await stuck(depot) == [number]


async def test_what_is_tried_again_has_not_got_on(depot):
    """A transfer that fails again and again is stuck, although it is begun anew each time."""
    number = depot.submit()
    for _ in range(12):
        depot.archive.answers = [PassingFault("the archive is away")]
        depot.stage()
        depot.wait_for_retry(number)
    depot.clock.advance(3600)
    assert await stuck(depot) == [number]
    depot.stage()
    assert await stuck(depot) == []
    found = depot.transfer(number)
    assert found.check_at == found.since + tables.PATIENCE
