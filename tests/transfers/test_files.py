"""What is told of a transfer's single files."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import text
from twisted.internet.defer import Deferred

from datahub.errors import PassingFault, Unavailable
from datahub.transfers import file_tables, filing
from datahub.transfers.housekeeping import Housekeeping
from datahub.transfers.movers import Checksum, CopiedFile
from tests.transfers.depot import DELIVERY, START, Depot
from tests.web.memory import Client

ALICE = {"Authorization": "Bearer alice-token"}


@pytest.fixture
def depot():
    depot = Depot()
    yield depot
    depot.end()


def copied(*paths: str) -> list[CopiedFile]:
    return [
        each for path in paths for each in (CopiedFile(path, 5), CopiedFile(path, 5, Checksum("sha256", "ab" * 32)))
    ]


async def listed(client: Client, number: str, query: str = "", *, by=ALICE):
    return await client.ask("GET", f"/transfers/{number}/files{query}", headers=by)


async def test_the_files_of_a_delivery(depot):
    """Each is COPIED under its temporary name, DELIVERED in the end; a cursor leads through them in their order."""
    client = depot.client()
    number = depot.submit()
    assert (await listed(client, number)).json == {"items": [], "next": None}
    depot.stage()
    depot.mover.files = copied("a", "b/\udcff", "c")
    publishing = Deferred()
    depot.mover.answers["publish"] = [publishing]
    depot.move()
    first = await listed(client, number, "?limit=2")
    digest = {"sha256": "ab" * 32}
    assert first.json["items"] == [
        {"path": path, "size": 5, "state": "COPIED", "checksums": digest} for path in ("a", "b/\\xff")
    ]
    assert first.headers["link"] == f'</transfers/{number}/files?limit=2&after={first.json["next"]}>; rel="next"'
    publishing.callback(None)
    rest = await listed(client, number, f"?limit=2&after={first.json['next']}")
    assert rest.json == {"items": [{"path": "c", "size": 5, "state": "DELIVERED", "checksums": digest}], "next": None}
    assert (await listed(client, number, "?after=x")).status == 400
    assert (await listed(client, number, by={"Authorization": "Bearer bob-token"})).status == 403
    assert (await listed(client, "nothing")).status == 404


async def test_the_file_that_failed(depot):
    """It is told with its error; the next attempt's list takes the place of the old one."""
    client = depot.client()
    number = depot.submit()
    depot.stage()
    depot.mover.files = [*copied("a", "b"), CopiedFile("c", 7)]
    depot.mover.answers["copy"] = [PassingFault("c can't be read")]
    depot.move()
    found = (await listed(client, number)).json["items"]
    assert [each["state"] for each in found] == ["COPIED", "COPIED", "FAILED"]
    assert found[2] == {"path": "c", "size": 7, "state": "FAILED", "error": "c can't be read"}
    depot.mover.files = copied("z")
    depot.wait_for_retry(number)
    depot.move()
    assert [each["path"] for each in (await listed(client, number)).json["items"]] == ["z"]


async def test_many_files_are_written_while_they_are_copied(depot, monkeypatch):
    """Each second, in batches; a database that is away meanwhile gets them later, and none is lost."""
    monkeypatch.setattr(filing, "BATCH", 3)
    client = depot.client()
    number = depot.submit()
    depot.stage()
    paths = [f"{n:02}" for n in range(8)]
    depot.mover.files = copied(*paths)
    copying = Deferred()
    depot.mover.answers["copy"] = [copying]
    depot.store.away["keep copied files"] = Unavailable("away")
    depot.move()
    depot.clock.advance(1)
    assert (await listed(client, number)).json["items"] == []
    depot.store.away.clear()
    depot.clock.advance(1)
    assert [each["path"] for each in (await listed(client, number)).json["items"]] == paths
    copying.callback(DELIVERY)
    assert [each["state"] for each in (await listed(client, number)).json["items"]] == ["DELIVERED"] * 8


async def test_files_go_with_their_transfer(depot):
    """In batches, before the record."""
    number = depot.submit()
    depot.stage()
    depot.mover.files = copied("a", "b", "c")
    depot.mover.claimed = "root://host:1094/d/005"
    depot.move()
    assert len(depot.store.now(lambda c: c.execute(text("SELECT * FROM claim")).all())) == 1
    house = Housekeeping(depot.store, depot.hub_clock, 1000)
    await house.forget_old()
    assert depot.transfer(number) is not None
    depot.hub_clock.set(START + 5000, 0)
    assert depot.store.now(partial(file_tables.forget, jobs=[number], limit=2)) == 2
    await house.forget_old()
    assert depot.transfer(number) is None
    assert depot.store.now(partial(file_tables.find, job=number, first=0, limit=9)) == []
    assert depot.store.now(lambda c: c.execute(text("SELECT * FROM claim")).all()) == []
