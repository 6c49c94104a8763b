"""The parts of jobs, built by plain calls: the hub starts them in their order."""

from __future__ import annotations

import getpass
import os
import pwd
from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.logger import Logger

from datahub.config import Config
from datahub.events.feed import Feed
from datahub.jobs.checking import Checker, Defaults
from datahub.jobs.files import Files
from datahub.jobs.housekeeping import Housekeeping, Keep
from datahub.jobs.output import Outputs
from datahub.jobs.pipeline import House, Pipeline
from datahub.jobs.routes import JobRoutes
from datahub.jobs.service import Jobs, Rules
from datahub.kit.threads import ReactorPool
from datahub.processes.runner import Runner
from datahub.web.app import App
from datahub.work.lane import Floor, Step

__all__ = ["JobParts"]

log = Logger()

THREADS: Final = 8
FORGET_EVERY: Final = 3600.0
FOLDER: Final = "/tmp"  # noqa: S108 - where a job that names no folder may write, as everybody may
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WARNING: Final = (
    "jobs can read whatever {user} can, the hub's database, configuration and tokens included, and so can everybody "
    "who has jobs:write; run them by a daemon of another user (datahub-jobs.service), or take jobs out of [hub] workers"
)


class JobParts:
    """``files`` and ``runner`` are to be started; ``admit`` raises when the hub takes no new work."""

    def __init__(self, config: Config, floor: Floor, feed: Feed, admit: Callable[[], None], reactor: Any) -> None:
        self._config = config
        self._floor = floor
        self._feed = feed
        node, state, section = config.hub.node, config.hub.state, config.jobs
        self.files = Files(state / "jobs", ReactorPool("jobs", THREADS, reactor))
        self.runner = Runner(state / f"jobs-{node}.lock", reactor)
        self._environ = environ()
        defaults = Defaults(
            timeout=section.timeout,
            grace=section.grace,
            keep=section.output_limit,
            limits=section.limits.given(),
            cwd=FOLDER,
            environ=self._environ,
            wrapped=bool(section.wrapper),
        )
        checker = Checker(defaults, self.files.pool)
        rules = Rules("jobs" in config.auth.shared, _milliseconds(section.keep), node)
        self.service = Jobs(floor, feed, self.runner, self.files, checker, admit, rules)
        outputs = Outputs(self.service, floor.store, self.runner, self.files, node, reactor)
        self.app: App = JobRoutes(self.service, outputs).app

    def steps(self) -> list[Step]:
        """What a daemon that runs jobs works on."""
        section = self._config.jobs
        house = House(self._config.hub.node, section.concurrent, section.grace, section.wrapper, self._environ)
        return Pipeline(self._floor, self.runner, self.files, self.files.pool, house, self._feed.touch).steps()

    def chores(self) -> list[tuple[str, float, Callable[[], Awaitable[object]]]]:
        """What is to be done again and again: its name, how often in seconds, and how."""
        section = self._config.jobs
        keep = Keep(_milliseconds(section.keep), _milliseconds(section.keep_created), section.keep_count)
        house = Housekeeping(self._floor.store, self._floor.clock, self.files, keep)
        return [
            ("old jobs", FORGET_EVERY, house.forget_old),
            ("old output", FORGET_EVERY, house.forget_files),
        ]

    def warn(self) -> None:
        """Say what an operator must know of jobs before anything else."""
        log.warn("{told}", told=WARNING.format(user=getpass.getuser()))


def environ() -> dict[str, str]:
    """What each job finds in its environment: nothing of the daemon's own, which may hold secrets."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = "/"
    user = getpass.getuser()
    return {"PATH": PATH, "HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", "LANG": "C.UTF-8"}


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
