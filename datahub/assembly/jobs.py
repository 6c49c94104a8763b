"""Jobs: the supervisor, and who may give it work."""

from __future__ import annotations

from sqlalchemy import Connection

from datahub.assembly import Capability, Chore, House
from datahub.config import Config
from datahub.jobs.building import JobParts
from datahub.jobs.pipeline import RUN
from datahub.kit.services import Part
from datahub.work import ledger
from datahub.work.lane import Lane

__all__ = ["build", "declare"]


def declare(connection: Connection, _: Config) -> None:
    """Make the row of the lane; how many jobs run at once each daemon decides by itself."""
    ledger.declare(connection, RUN, None)


def build(house: House) -> Capability:
    """Jobs as the configuration wants them."""
    config = house.config
    jobs = JobParts(config, house.floor, house.feed, house.reserve.admit, house.reactor)
    runs = "jobs" in config.hub.workers
    parts: dict[str, Part] = {"job files": jobs.files}
    if runs:
        parts["supervisor"] = jobs.runner
        jobs.warn()

    def take(lane: Lane) -> None:
        jobs.service.lane = lane

    return Capability(
        app=jobs.app,
        steps=jobs.steps() if runs else (),
        parts=parts,
        chores=[Chore(*each) for each in jobs.chores()],
        take=take,
        summarise=jobs.service.summary,
        checks={"supervisor": jobs.runner.check} if runs else {},
    )
