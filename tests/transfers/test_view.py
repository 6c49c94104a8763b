"""A transfer as JSON, in each of its states."""

from __future__ import annotations

import json

import msgspec
import pytest
from twisted.internet.defer import Deferred

from datahub.errors import FinalFault, PassingFault
from datahub.transfers import endings
from datahub.transfers.view import view
from tests.transfers.depot import DELIVERY, KEEP, Depot

T0, T1, T2, T3 = (f"2026-03-01T09:30:0{second}.250Z" for second in range(4))


@pytest.fixture
def depot(monkeypatch):
    monkeypatch.setattr(endings, "uniform", lambda low, high: 1.0)
    depot = Depot()
    yield depot
    depot.end()


def shown(depot, number):
    return json.loads(msgspec.json.encode(view(depot.seen(number), depot.hub_clock.wall(), KEEP)))


def links(number):
    return {
        "self": f"/transfers/{number}",
        "events": f"/transfers/{number}/events",
        "files": f"/transfers/{number}/files",
    }


def test_submitted(depot):
    """Nulls are left out; it waits for a slot."""
    number = depot.submit()
    assert shown(depot, number) == {
        "job_id": number,
        "product_id": "005",
        "status": "SUBMITTED",
        "destination_path": "file:///d/alice",
        "submitter": "alice",
        "priority": 3,
        "links": links(number),
        "time_submitted": T0,
        "waiting_on": {"what": "slot", "since": T0},
    }


def test_staging(depot):
    """It waits for the stager, since that began."""
    number = depot.submit()
    depot.clock.advance(1)
    depot.archive.answers = [Deferred()]
    depot.stage()
    answer = shown(depot, number)
    assert (answer["status"], answer["time_staging"], answer["attempts"]) == ("STAGING", T1, 1)
    assert answer["waiting_on"] == {"what": "stager", "since": T1}
    assert "progress" not in answer


def test_waiting_to_be_moved(depot):
    """It waits for a slot since it was staged; the size is known."""
    number = depot.submit()
    depot.clock.advance(1)
    depot.stage()
    answer = shown(depot, number)
    assert answer["waiting_on"] == {"what": "slot", "since": T1}
    assert (answer["files"], answer["progress"]) == (1, {"done": 0, "total": 1000})
    assert answer["time_staging_finished"] == T1


def test_moving(depot):
    """The bytes moved so far, and never more than there are."""
    number = depot.submit()
    depot.stage()
    depot.clock.advance(1)
    depot.mover.progress = 400
    depot.mover.answers["copy"] = [Deferred()]
    depot.move()
    answer = shown(depot, number)
    assert answer["status"] == "TRANSFERRING"
    assert answer["waiting_on"] == {"what": "mover", "since": T1}
    assert answer["progress"] == {"done": 400, "total": 1000}
    depot.clock.advance(4)
    assert shown(depot, number)["progress"] == {"done": 400, "total": 1000, "rate": 100, "eta": 6}
    depot.pipeline.moved[number] = 5000
    assert shown(depot, number)["progress"] == {"done": 1000, "total": 1000, "rate": 250, "eta": 0}


def test_waiting_for_a_retry(depot):
    """Since when it fails, when it is tried again, and why."""
    number = depot.submit()
    depot.clock.advance(1)
    depot.archive.answers = [PassingFault("the archive is away")]
    depot.stage()
    answer = shown(depot, number)
    assert answer["status"] == "SUBMITTED"
    assert answer["waiting_on"] == {"what": "retry", "since": T1, "next_at": T2, "reason": "the archive is away"}
    assert (answer["detailed_status"], answer["attempts"]) == ("the archive is away", 1)


def test_success(depot):
    """All times, all bytes, the checksums; it waits for nothing, and inner facts stay inside."""
    number = depot.submit()
    depot.clock.advance(1)
    depot.stage()
    depot.clock.advance(1)
    depot.move()
    assert shown(depot, number) == {
        "job_id": number,
        "product_id": "005",
        "status": "SUCCESS",
        "destination_path": "file:///d/alice",
        "submitter": "alice",
        "priority": 3,
        "links": links(number),
        "expires_at": "2028-11-25T09:30:00.250Z",
        "detailed_status": "delivered and verified: file:///d/alice/005",
        "stager_path": "/archive/005",
        "stager_status": "found in the archive: 1 file, 1000 bytes",
        "time_submitted": T0,
        "time_staging": T1,
        "time_staging_finished": T1,
        "time_transferring": T2,
        "time_success": T2,
        "files": 1,
        "progress": {"done": 1000, "total": 1000},
        "attempts": 1,
        "checksums": DELIVERY.checksums,
    }


def test_error(depot):
    """With its time and reason."""
    number = depot.submit()
    depot.archive.answers = [FinalFault("no such product: 005")]
    depot.stage()
    answer = shown(depot, number)
    assert (answer["status"], answer["time_error"]) == ("ERROR", T0)
    assert answer["detailed_status"] == "no such product: 005"
    assert "waiting_on" not in answer
