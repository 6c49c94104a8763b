"""What can be asked of jobs: create, start, stop, look, list, read, delete. It never sees a request."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec
from sqlalchemy import Connection

from datahub.auth.identity import Caller
from datahub.errors import Conflict, NotFound, NotPermitted, WrongState
from datahub.events import Actor, Event
from datahub.events.feed import Feed
from datahub.events.summary import Summary, summarise
from datahub.events.tables import Wanted
from datahub.events.tables import find as find_events
from datahub.events.watching import changes, until_final
from datahub.jobs import tables
from datahub.jobs.checking import Checker
from datahub.jobs.files import Files
from datahub.jobs.model import API, Creation, Filter, Job, Spec, Status
from datahub.jobs.pipeline import RUN
from datahub.processes.output import read_tail
from datahub.processes.runner import Runner, Written
from datahub.store.requests import Request, check_key, once
from datahub.work import ledger
from datahub.work.lane import Floor, Lane

__all__ = ["Jobs", "Rules", "Seen"]

ROUTE: Final = "jobs"
HEARTBEAT: Final = 15.0
STOP_PATIENCE: Final = 10.0
"""Seconds, beyond the grace, that a stop waits for the last process of a job."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as it is told of: the record, whether it waits for its turn, what has come out of it so far."""

    job: Job
    queued: bool
    written: tuple[Written, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says: who reads what, how long (ms) records are kept, and whose name this node has."""

    shared: bool
    keep: int
    node: str


class Jobs:
    """The verbs. ``admit`` raises when the hub takes no new work."""

    def __init__(
        self,
        floor: Floor,
        feed: Feed,
        runner: Runner,
        files: Files,
        checker: Checker,
        admit: Callable[[], None],
        rules: Rules,
    ) -> None:
        self._store = floor.store
        self._queue = floor.queue
        self._clock = floor.clock
        self._reactor = floor.reactor
        self._changed = floor.changed
        self._feed = feed
        self._runner = runner
        self._files = files
        self._checker = checker
        self._admit = admit
        self._last_id = 0
        self.lane: Lane | None = None
        """The lane in which this hub runs jobs itself, if it does."""
        self.rules = rules

    async def create(self, caller: Caller, creation: Creation, key: str | None) -> Seen:
        """Take a job on, and with ``start`` let it run; it is on disk then.

        The same ``key`` (Idempotency-Key) with the same creation gives the same job. Raises `InvalidRequest`,
        `Conflict` (the key was used for something else), `NoSpace`, `Unavailable`.
        """
        command, spec = await self._checker.check(creation)
        self._admit()
        request = _request(caller, creation, key)
        work = partial(self._create, caller, creation, (command, spec), request)
        enter = self._store.run if self.lane is None or not creation.start else self.lane.run
        number, seen = await enter("create job", work)
        if seen is None:
            return await self.find(caller, number)
        if creation.start:
            self._announce()
        else:
            self._changed()
        return seen

    def _create(
        self,
        caller: Caller,
        creation: Creation,
        prepared: tuple[str, Spec],
        request: Request | None,
        connection: Connection,
    ) -> tuple[str, Seen | None]:
        new = self._new_job(caller, creation, *prepared)
        if request is not None:
            given = once(connection, request, 201, new.id, new.time_created)
            if given is not None:
                return given, None
        while not tables.add(connection, new, actor_of(caller)):
            # Another hub took that id in the same nanosecond.
            new = self._new_job(caller, creation, *prepared)
        if creation.start:
            ledger.enqueue(connection, RUN, new.id, new.submitter)
        return new.id, Seen(new, creation.start, ())

    def _new_job(self, caller: Caller, creation: Creation, command: str, spec: Spec) -> Job:
        now = self._clock.wall()
        # Like the original's: the time in nanoseconds, and always more than the one before.
        self._last_id = max(self._last_id + 1, now * 1_000_000 + secrets.randbelow(1_000_000))
        return Job(
            id=str(self._last_id),
            submitter=caller.name,
            name=creation.name,
            status=Status.STARTED if creation.start else Status.CREATED,
            command=command,
            shell=creation.argv is None,
            spec=spec,
            reason="",
            detail=None,
            node=None,
            process=None,
            exit_code=None,
            signal=None,
            usage=None,
            output=(),
            time_created=now,
            time_requested=now if creation.start else None,
            time_started=None,
            time_stopped=None,
        )

    async def start(self, caller: Caller, number: str) -> Seen:
        """Let a job run: now, or when it is its turn. Raises `NotFound`, `NotPermitted`, `WrongState`."""
        self._admit()
        enter = self._store.run if self.lane is None else self.lane.run
        seen = await enter("start job", partial(self._start, caller, number))
        self._announce()
        return seen

    def _start(self, caller: Caller, number: str, connection: Connection) -> Seen:
        job = self._own(connection, caller, number)
        if job.status is not Status.CREATED:
            raise WrongState(f"job {number} is {job.status}: only one that is created can be started")
        now = self._clock.wall()
        tables.change(connection, job, now, actor=actor_of(caller), status=Status.STARTED, time_requested=now)
        ledger.enqueue(connection, RUN, number, job.submitter)
        return Seen(replace(job, status=Status.STARTED, time_requested=now), True, ())

    async def stop(self, caller: Caller, number: str) -> Seen:
        """Stop a job, and wait until no process of it is left.

        Raises `NotFound`, `NotPermitted`, `WrongState`. If processes can't be killed, the job is given as it is then.
        """
        grace = await self._store.run("stop job", partial(self._stop, caller, number))
        self._announce()
        if grace is not None:
            self._runner.end(number, API, grace)
        return await self.await_final(caller, number, (grace or 0) + STOP_PATIENCE)

    def _stop(self, caller: Caller, number: str, connection: Connection) -> float | None:
        """The job's grace if it runs; None if it never began, and so has ended now."""
        ledger.lock(connection, RUN, number)
        job = self._own(connection, caller, number)
        if job.status is not Status.STARTED:
            raise WrongState(f"job {number} is {job.status}: only one that is started can be stopped")
        now, actor = self._clock.wall(), actor_of(caller)
        if ledger.withdraw(connection, [RUN], number):
            tables.change(
                connection, job, now, actor=actor, status=Status.STOPPED, reason=API, time_stopped=now, output=()
            )
            return None
        tables.change(connection, job, now, actor=actor, reason=API)
        spec = tables.find_spec(connection, number)
        return 0.0 if spec is None else spec.grace

    async def delete(self, caller: Caller, number: str) -> None:
        """Forget a job that has ended, or was never started; its output goes with it.

        Raises `NotFound`, `NotPermitted`, and `Conflict` while it runs.
        """
        await self._store.run("delete job", partial(self._delete, caller, number))
        self._changed()
        await self._files.remove([number])

    def _delete(self, caller: Caller, number: str, connection: Connection) -> None:
        job = self._own(connection, caller, number)
        if job.status is Status.STARTED:
            raise Conflict(f"job {number} is not over: stop it first", code="job.running")
        tables.remove(connection, [number], self._clock.wall(), actor_of(caller))

    async def find(self, caller: Caller, number: str) -> Seen:
        """The job with id ``number``; raises `NotFound`, or `NotPermitted` when it is somebody else's."""
        job, waits = await self._store.read("find job", partial(_look_up, number))
        if job is None:
            raise _not_found(number)
        self._permit(caller, job, reads=True)
        return self._seen(job, waits)

    def _seen(self, job: Job, waits: bool) -> Seen:
        child = self._runner.find(job.id)
        written = child.output if child is not None and not job.status.final else job.output
        return Seen(job, waits and not job.status.final, written)

    async def logs(self, seen: Seen, most: int) -> bytes:
        """The last bytes of what a job has written so far, if that lies on this node."""
        if not any(each.total for each in seen.written) or seen.job.node != self.rules.node:
            return b""
        paths = self._files.output(seen.job.id, separate=len(seen.written) > 1)
        return await self._files.pool.run(read_tail, paths, most)

    async def await_final(self, caller: Caller, number: str, seconds: float) -> Seen:
        """The job, once it is over or ``seconds`` have passed."""
        look = partial(self.find, caller, number)
        return await until_final(look, _final, self._feed, number, seconds, self._reactor)

    def watch(self, caller: Caller, number: str) -> AsyncIterator[Seen | None]:
        """The job now and after each change until it is over; None as a sign of life."""
        look = partial(self.find, caller, number)
        return changes(look, _final, self._touch, self._feed, number, HEARTBEAT, self._reactor)

    def _touch(self, seen: Seen) -> Seen:
        return self._seen(seen.job, seen.queued)

    async def find_many(self, caller: Caller, wanted: Filter) -> list[Seen]:
        """A page of jobs; whose they are, `whose` has checked."""

        def look(connection: Connection) -> tuple[list[Job], set[str]]:
            found = tables.find_many(connection, wanted)
            started = [each.id for each in found if each.status is Status.STARTED]
            return found, tables.queued(connection, RUN, started) if started else set()

        found, waiting = await self._store.read("list jobs", look)
        return [self._seen(each, each.id in waiting) for each in found]

    def whose(self, caller: Caller, submitter: str) -> str | None:
        """The submitter whose jobs are asked for (me, a name, or * for all: None); raises `NotPermitted`."""
        name = caller.name if submitter == "me" else submitter
        if name != caller.name and not caller.may("jobs:admin") and not self.rules.shared:
            whom = "all submitters" if name == "*" else f"{name!r}"
            raise NotPermitted(f"submitter {whom}: others' jobs need the scope jobs:admin, or [auth] shared")
        return None if name == "*" else name

    async def timeline(self, caller: Caller, number: str) -> Sequence[Event]:
        """All events of one job, oldest first."""
        await self.find(caller, number)
        wanted = Wanted(subject=number)
        return await self._store.read("timeline", partial(find_events, wanted=wanted, limit=1000))

    async def summary(self) -> Summary:
        """How many jobs are in which status, and what ended lately."""

        def look(connection: Connection) -> Summary:
            return summarise(connection, tables.KIND, self._clock.wall(), tables.oldest(connection))

        return await self._store.read("sum up jobs", look)

    def _own(self, connection: Connection, caller: Caller, number: str) -> Job:
        job = tables.find(connection, number, lock=True)
        if job is None:
            raise _not_found(number)
        self._permit(caller, job, reads=False)
        return job

    def _permit(self, caller: Caller, job: Job, *, reads: bool) -> None:
        """One's own; another's with ``admin``, or to read when jobs are shared, as the original's are."""
        if caller.name == job.submitter or caller.may("jobs:admin") or (reads and self.rules.shared):
            return
        raise NotPermitted(f"job {job.id} is not one of {caller.name!r}: that needs jobs:admin", code="job.not_yours")

    def _announce(self) -> None:
        self._queue.announce(RUN)
        self._changed()


def actor_of(caller: Caller) -> Actor:
    """``caller`` as the events tell of him."""
    return Actor(caller.name, caller.kind, caller.address, caller.request)


def _not_found(number: str) -> NotFound:
    return NotFound(f"there is no job {number[:40]}", code="job.not_found")


def _final(seen: Seen) -> bool:
    return seen.job.status.final


def _look_up(number: str, connection: Connection) -> tuple[Job | None, bool]:
    job = tables.find(connection, number)
    waits = job is not None and job.status is Status.STARTED and bool(tables.queued(connection, RUN, [number]))
    return job, waits


def _request(caller: Caller, creation: Creation, key: str | None) -> Request | None:
    if key is None:
        return None
    return Request(caller.name, check_key(key), ROUTE, hashlib.sha256(msgspec.json.encode(creation)).hexdigest())
