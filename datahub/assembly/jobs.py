"""Jobs: the supervisor, and who may give it work."""

from __future__ import annotations

import getpass
import os
import pwd
from typing import Final

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.assembly import Capability, Chore, House, milliseconds
from datahub.config import Config, JobsSection
from datahub.jobs import pipeline
from datahub.jobs.checking import Checker, Defaults
from datahub.jobs.files import Files
from datahub.jobs.housekeeping import Housekeeping, Keep
from datahub.jobs.output import Outputs
from datahub.jobs.pipeline import RUN, Pipeline
from datahub.jobs.routes import JobRoutes
from datahub.jobs.service import Jobs, Rules
from datahub.kit.services import Part
from datahub.kit.threads import ReactorPool
from datahub.processes.runner import Runner
from datahub.work import ledger
from datahub.work.lane import Lane

__all__ = ["build", "declare"]

log = Logger()

THREADS: Final = 8
FORGET_EVERY: Final = 3600.0
FOLDER: Final = "/tmp"  # noqa: S108 - where a job that names no folder may write, as everybody may
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WARNING: Final = (
    "jobs can read whatever {user} can, the hub's database, configuration and tokens included, and so can everybody "
    "who has jobs:write; run them by a daemon of another user (datahub-jobs.service), or take jobs out of [hub] workers"
)


def declare(connection: Connection, _: Config) -> None:
    """Make the row of the lane; how many jobs run at once each daemon decides by itself."""
    ledger.declare(connection, RUN, None)


def build(house: House) -> Capability:
    """Jobs as the configuration wants them."""
    config, section, floor = house.config, house.config.jobs, house.floor
    node, state = config.hub.node, config.hub.state
    files = Files(state / "jobs", ReactorPool("jobs", THREADS, house.reactor))
    runner = Runner(state / f"jobs-{node}.lock", house.reactor)
    environ = _environ()
    checker = Checker(_defaults(section, environ), files.pool)
    rules = Rules("jobs" in config.auth.shared, milliseconds(section.keep), node)
    service = Jobs(floor, house.feed, runner, files, checker, house.reserve.admit, rules)
    outputs = Outputs(service, house.store, runner, files, node, house.reactor)
    keep = Keep(milliseconds(section.keep), milliseconds(section.keep_created), section.keep_count)
    tidy = Housekeeping(house.store, house.clock, files, keep)
    runs = "jobs" in config.hub.workers
    parts: dict[str, Part] = {"job files": files}
    if runs:
        parts["supervisor"] = runner
        log.warn("{told}", told=WARNING.format(user=getpass.getuser()))
    here = pipeline.House(node, section.concurrent, section.grace, section.wrapper, environ)

    def take(lane: Lane) -> None:
        service.lane = lane

    return Capability(
        app=JobRoutes(service, outputs).app,
        steps=Pipeline(floor, runner, files, files.pool, here, house.feed.touch).steps() if runs else (),
        parts=parts,
        chores=[
            Chore("old jobs", FORGET_EVERY, tidy.forget_old),
            Chore("old output", FORGET_EVERY, tidy.forget_files),
        ],
        take=take,
        summarise=service.summary,
        checks={"supervisor": runner.check} if runs else {},
    )


def _defaults(section: JobsSection, environ: dict[str, str]) -> Defaults:
    return Defaults(
        timeout=section.timeout,
        grace=section.grace,
        keep=section.output_limit,
        limits=section.limits.given(),
        cwd=FOLDER,
        environ=environ,
        wrapped=bool(section.wrapper),
    )


def _environ() -> dict[str, str]:
    """What each job finds in its environment: nothing of the daemon's own, which may hold secrets."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = "/"
    user = getpass.getuser()
    return {"PATH": PATH, "HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", "LANG": "C.UTF-8"}
