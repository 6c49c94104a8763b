"""The one step of a job: it runs, once. What is found to have run before, its daemon having died, is `lost`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from datahub.errors import DatahubError, NoSpace, Unavailable
from datahub.jobs import tables
from datahub.jobs.files import Files
from datahub.jobs.model import API, SHUTDOWN, Job, Spec, Status, reason_of, signal_name
from datahub.kit.aio import leave, within
from datahub.kit.clock import HubClock
from datahub.kit.threads import Pool
from datahub.processes.leftovers import TAG, boot, kill_leftovers
from datahub.processes.output import state_of
from datahub.processes.runner import Child, Ended, Order, Runner
from datahub.store import Store
from datahub.work import Done, Fail, Item, Outcome, Record, ledger
from datahub.work.lane import Floor, Step
from datahub.work.tables import RECOVERED

__all__ = ["RUN", "House", "Pipeline"]

log = Logger()

RUN: Final = "jobs.run"
NOTE_AFTER: Final = 0.5
"""Seconds: a job that takes longer has its first process noted, for the case that all of us are killed at once."""

KILL_PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class House:
    """How jobs are run here: how many at once, what stands before each command, what each finds in its environment.

    ``grace`` is how long a stop of the hub waits for a job, in seconds.
    """

    node: str
    concurrent: int
    grace: float
    wrapper: Sequence[str]
    environ: Mapping[str, str]


class Pipeline:
    """Takes jobs that were started to their end; ``told`` hears of each that has ended."""

    def __init__(
        self, floor: Floor, runner: Runner, files: Files, pool: Pool, house: House, told: Callable[[str], None]
    ) -> None:
        self._told = told
        self._store: Store = floor.store
        self._clock: HubClock = floor.clock
        self._reactor = floor.reactor
        self._owner = floor.owner
        self._runner = runner
        self._files = files
        self._pool = pool
        self._house = house

    def steps(self) -> list[Step]:
        """The lane."""
        return [Step(RUN, self._house.concurrent, self._begin, self.run, self.fault, self._settled)]

    def _begin(self, connection: Connection, items: Sequence[Item]) -> dict[str, Job]:
        # Only this transaction says that a job begins: an item that comes from a dead daemon may have run.
        fresh = [item.subject for item in items if item.note is None]
        numbers = [item.subject for item in items]
        return tables.begin(connection, numbers, fresh, self._clock.wall(), self._house.node)

    async def run(self, item: Item) -> Outcome:
        """Run the job and wait for its end; when this is cancelled, stop it."""
        job: Job = item.record
        if job.status is not Status.STARTED or job.spec is None:
            return Done()
        if item.note == RECOVERED:
            return await self._lost(job, job.spec)
        if job.reason == API:
            return Done(self._ended(job, Ended(cause=API)))
        try:
            stdin = await self._files.put_stdin(job.id, job.spec.stdin)
            child = await self._runner.run(self._order(job, job.spec, stdin))
        except CancelledError:
            if await self._why(job) == API:
                return Done(self._ended(job, Ended(cause=API)))
            raise
        try:
            ended = await self._end_of(item, child)
        finally:
            if child.ended is None:
                self._runner.end(job.id, SHUTDOWN, 0)
        if ended.lost is not None:
            return await self._lost(job, job.spec, ended.lost)
        return Done(self._ended(job, ended))

    def _order(self, job: Job, spec: Spec, stdin: str | None) -> Order:
        facts = {"id": job.id, "submitter": job.submitter}
        return Order(
            job=job.id,
            argv=[*(_filled(each, facts) for each in self._house.wrapper), *spec.argv],
            env={**self._house.environ, **spec.env, TAG: job.id},
            cwd=spec.cwd,
            timeout=spec.timeout,
            grace=spec.grace,
            limits=spec.limits,
            output=[str(path) for path in self._files.output(job.id, separate=spec.separate)],
            keep=spec.keep,
            stdin=stdin,
        )

    async def _end_of(self, item: Item, child: Child) -> Ended:
        try:
            if not await self._ends_soon(child):
                await self._note(item, child)
            return await child.end()
        except CancelledError:
            cause = await self._why(item.record)
            grace = child.order.grace if cause == API else min(child.order.grace, self._house.grace)
            self._runner.end(child.order.job, cause, grace)
        return await child.end()

    async def _ends_soon(self, child: Child) -> bool:
        until = self._reactor.seconds() + NOTE_AFTER
        while child.ended is None:
            left = until - self._reactor.seconds()
            change = child.change()
            try:
                await within(max(left, 0.001), change, self._reactor, "a short job")
            except TimeoutError:
                return False
            finally:
                leave(change)
        return True

    async def _note(self, item: Item, child: Child) -> None:
        """Note the process of a job that takes its time; without a database there is no note."""
        process = f"{child.pid} {child.start} {boot()}"
        try:
            await self._store.run("note a job's process", partial(self._keep_process, item, process))
        except (Unavailable, NoSpace, DatahubError) as error:
            log.debug("the process of job {id} is not noted: {error}", id=item.subject, error=str(error))

    def _keep_process(self, item: Item, process: str, connection: Connection) -> None:
        ledger.hold(connection, item, self._owner)
        tables.change(connection, item.record, self._clock.wall(), process=process)

    async def _why(self, job: Job) -> str:
        """Why the step is stopped: somebody asked for it, or the hub stops."""
        try:
            now = await self._store.read("why stopped", partial(tables.find, number=job.id))
            return API if now is not None and now.reason == API else SHUTDOWN
        except (Unavailable, NoSpace):
            return SHUTDOWN

    async def _lost(
        self, job: Job, spec: Spec, why: str = "the daemon that ran it died, or lost its database"
    ) -> Outcome:
        """Tell what is known, once nothing is left of the job."""
        if job.node != self._house.node:
            return Done(self._ended(job, Ended(lost=f"{why}; its output lies on node {job.node}")))
        await self._runner.ready()
        if not await self._pool.run(kill_leftovers, job.id, job.process, KILL_PATIENCE):
            why += "; processes of it could not be killed"
        paths = self._files.output(job.id, separate=spec.separate)
        written = await self._pool.run(state_of, paths, spec.keep)
        return Done(self._ended(job, Ended(lost=why, output=written)))

    def fault(self, item: Item, error: Exception) -> Outcome:
        """A job runs once: what went wrong before it began ends it."""
        if isinstance(error, NoSpace | OSError):
            told = str(error)
        else:
            log.failure("job {id} met an internal fault", id=item.subject)
            told = f"internal fault ({type(error).__name__}), see the log"
        return Fail(self._ended(item.record, Ended(error=told)))

    def _settled(self, item: Item) -> None:
        self._told(item.subject)
        self._runner.forget(item.subject)
        self._files.drop_stdin(item.subject)

    def _ended(self, job: Job, ended: Ended) -> Record:
        return partial(
            tables.change,
            job_=job,
            now=self._clock.wall(),
            status=Status.STOPPED,
            reason=reason_of(ended),
            detail=ended.lost or ended.error,
            exit_code=ended.code,
            signal=None if ended.signal is None else signal_name(ended.signal),
            usage=ended.usage,
            output=ended.output,
            time_stopped=self._clock.wall(),
        )


def _filled(text: str, facts: Mapping[str, Any]) -> str:
    for name, value in facts.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text
