"""Stagers that take a request and then do nothing, and those that were away before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from datahub.archive import Product
from datahub.errors import PassingFault
from datahub.transfers.model import Status, Transfer
from datahub.transfers.stagers import Errand, Promised
from tests.transfers.depot import Depot


class Promiser:
    """Takes every errand, unless it is away."""

    calls_back = True
    away = False

    async def stage(self, errand: Errand) -> Promised:
        if self.away:
            raise PassingFault("the stager is away")
        return Promised("soon")

    async def locate(self, transfer: Transfer) -> Product:
        raise NotImplementedError

    def remote(self, transfer: Transfer) -> None:
        return None


@pytest.fixture
def stager() -> Promiser:
    """The stager."""
    return Promiser()


@pytest.fixture
def depot(stager: Promiser) -> Iterator[Any]:
    """Transfers that are retried for an hour, and staged within a minute."""
    depot = Depot(stager=stager, retry_for=3600, staging_timeout=60)
    yield depot
    depot.end()


def test_a_stager_that_answers_again_is_not_failing(depot: Any, stager: Promiser) -> None:
    """How long it was away before is nothing that a late call-back is blamed for."""
    stager.away = True
    number = depot.submit()
    begun = depot.clock.seconds()
    while depot.clock.seconds() - begun < 3000:
        depot.stage()
        depot.wait_for_retry(number)
    assert depot.transfer(number).failing_since is not None
    stager.away = False
    depot.stage()
    found = depot.transfer(number)
    assert (found.status, found.failing_since, found.late_since) == (Status.STAGING, None, None)
    depot.clock.advance(900)
    depot.wait_for_retry(number)
    depot.stage()
    found = depot.transfer(number)
    assert found.status is Status.SUBMITTED
    assert found.late_since == found.failing_since == depot.hub_clock.wall()


def test_a_stager_that_only_ever_promises_is_given_up(depot: Any) -> None:
    """Its promises do not begin the time anew."""
    number = depot.submit()
    begun = depot.clock.seconds()
    while not depot.transfer(number).status.final:
        depot.stage()
        if depot.place(number):
            depot.wait_for_retry(number)
    found = depot.transfer(number)
    assert found.status is Status.ERROR
    assert "given up after" in found.detailed_status
    assert "has not called back within 1 min" in found.detailed_status
    assert 3600 <= depot.clock.seconds() - begun < 3600 + 2000
