"""What a transfer that has ended may have left: the record tells of it, and it goes when the destination is back."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from datahub.errors import FinalFault, PassingFault
from datahub.kit.aio import start
from datahub.transfers.model import Status
from datahub.transfers.pipeline import MOVE
from datahub.transfers.tidying import TIDY, TIDY_FOR
from tests.transfers.depot import START, Depot, caller

LATER = "is removed as soon as that can be done"


@pytest.fixture
def depot():
    depot = Depot()
    yield depot
    depot.end()


def staged(depot):
    """A transfer that waits to be moved."""
    number = depot.submit()
    depot.stage()
    assert depot.place(number).lane == MOVE
    return number


def test_discarding_that_fails_is_done_later(depot):
    """The transfer ends for its own reason, and says what may be left; that goes when the destination is back."""
    number = staged(depot)
    depot.mover.answers["copy"] = [FinalFault("it has another checksum")]
    depot.mover.answers["discard"] = [PassingFault("the disk is away")] * 2 + [FinalFault("no entry")]
    depot.move()
    found = depot.transfer(number)
    told = "it has another checksum; what was copied could not be removed: the disk is away; what may be left of it, "
    assert (found.status, found.detailed_status) == (Status.ERROR, f"{told}.datahub-{number}-*, {LATER}")
    for _ in range(2):
        depot.look(TIDY)
        depot.wait_for_retry(number, TIDY)
    depot.look(TIDY)
    assert depot.mover.calls == ["copy", *["discard"] * 4]
    assert {order.transfer for order in depot.mover.orders} == {number}
    assert depot.place(number, TIDY) is None
    assert depot.transfer(number) == found


def test_what_is_given_up_is_tidied_up():
    """The destination was away to the end: what lies there goes when it is back, and the record has its name."""
    depot = Depot(retry_for=0)
    number = staged(depot)
    depot.mover.answers["copy"] = [PassingFault("no route to host")] * 2
    depot.move()
    depot.wait_for_retry(number)
    depot.move()
    told = str(depot.transfer(number).detailed_status)
    assert told.startswith("given up after 2 tries since")
    assert told.endswith(f"no route to host; what may be left of it, .datahub-{number}-*, {LATER}")
    depot.look(TIDY)
    assert depot.mover.calls[-1] == "discard"
    assert depot.place(number, TIDY) is None
    depot.end()


def test_what_can_not_be_tidied_up_is_logged_in_the_end(depot):
    """Weeks later, with the names that somebody is to remove."""
    number = staged(depot)
    depot.mover.answers["copy"] = [FinalFault("it has another checksum")]
    depot.mover.answers["discard"] = [PassingFault("the disk is away")] * 999
    depot.move()
    with capturedLogs() as events:
        for _ in range(200):
            depot.look(TIDY)
            if depot.place(number, TIDY) is None:
                break
            depot.wait_for_retry(number, TIDY)
    (told,) = [each for each in events if "could not be removed" in each.get("log_format", "")]
    assert (told["names"], told["place"]) == (f".datahub-{number}-", "file:///d/alice")
    assert depot.hub_clock.wall() - START >= TIDY_FOR


def test_tidying_up_outlasts_faults_of_our_own(depot):
    """Such a fault is in the log with its traceback; a mover that is not configured is waited for."""
    number = staged(depot)
    depot.mover.answers["copy"] = [FinalFault("it has another checksum")]
    depot.mover.answers["discard"] = [PassingFault("the disk is away"), KeyError("x")]
    depot.move()
    with capturedLogs() as events:
        depot.look(TIDY)
    assert [event["log_failure"].type for event in events if "log_failure" in event] == [KeyError]
    depot.wait_for_retry(number, TIDY)
    mover = depot.movers.pop("file")
    depot.look(TIDY)
    depot.movers["file"] = mover
    depot.wait_for_retry(number, TIDY)
    depot.look(TIDY)
    assert depot.place(number, TIDY) is None


@pytest.mark.parametrize("tries", [0, 1])
def test_who_takes_it_up_again_tidies_up_himself(depot, tries):
    """A transfer that is tried again removes what is left before it copies; nobody comes after it."""
    number = staged(depot)
    depot.mover.answers["copy"] = [FinalFault("it has another checksum")]
    depot.mover.answers["discard"] = [PassingFault("the disk is away")] * (tries + 1)
    depot.move()
    if tries:
        depot.look(TIDY)
    start(depot.verbs.retry(caller(), number))
    depot.look(TIDY)
    assert depot.place(number, TIDY) is None
    depot.move()
    assert depot.mover.calls == ["copy", *["discard"] * (tries + 2), "copy", "publish"]
    assert depot.transfer(number).status is Status.SUCCESS


def test_tidying_up_is_stopped_when_the_transfer_is_tried_again(depot):
    """Else it would remove what the next attempt has begun."""
    number = staged(depot)
    depot.mover.answers["copy"] = [FinalFault("it has another checksum")]
    stopped = []
    depot.mover.answers["discard"] = [PassingFault("the disk is away"), Deferred(stopped.append)]
    depot.move()
    depot.look(TIDY)
    start(depot.verbs.retry(caller(), number))
    depot.interrupt(number)
    depot.look(TIDY)
    assert len(stopped) == 1
    assert depot.place(number, TIDY) is None
    assert depot.transfer(number).status is Status.STAGING
    depot.clock.advance(0)
