"""What is swept up of transfers that have ended, or that nobody knows."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred

from datahub.transfers.movers import Leftover
from datahub.transfers.orphans import Orphans
from tests.transfers.depot import DELIVERY, Depot


class Away:
    """A mover whose disk fails."""

    async def leftovers(self, before: float) -> list[Leftover]:
        raise OSError(5, "Input/output error")


async def test_only_what_nobody_needs():
    """Leftovers of an unknown transfer and of one that has ended go; those of one under way stay."""
    depot = Depot()
    ended, running = depot.submit(), depot.submit()
    copying: Deferred[object] = Deferred()
    depot.mover.answers["copy"] = [DELIVERY, copying]
    depot.look()
    needed = Leftover(running, "a/.datahub-x")
    depot.mover.lying = [needed, Leftover(ended, "b"), Leftover(str(uuid4()), "c"), Leftover(ended, "d")]
    movers: Any = {"away": Away(), "file": depot.mover}
    await Orphans(depot.store, depot.hub_clock, movers).sweep()
    assert depot.mover.lying == [needed]
    copying.callback(DELIVERY)
    depot.end()
