"""Jobs at FTS servers are followed: one item a server asks about all that are due, and settles what has ended.

A younger job is due more often. Any hub may follow what another has handed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.errors import PassingFault, Superseded
from datahub.kit.aio import gather
from datahub.transfers import file_tables, flights, tables
from datahub.transfers.endings import FTS, MOVE
from datahub.transfers.flights import LATE, Flight, Look, key_of
from datahub.transfers.landing import Landing, final, has_ended, is_over
from datahub.transfers.model import FileRecord
from datahub.transfers.movers.fts import Job, Jobs, TooLarge, Trouble, Unknown
from datahub.transfers.movers.fts_jobs import FINAL_JOBS, Agent, conclude, details, ended, states
from datahub.work import Item, Outcome, Retry, ledger
from datahub.work.lane import Floor, Step, write

__all__ = ["AT_ONCE", "FOLLOW", "REQUESTS", "SOONEST", "SWEEP", "Following", "declare_servers"]

log = Logger()

FOLLOW = "transfers.follow"

SECOND = 1000
SOONEST, LATEST = 2 * SECOND, 60 * SECOND
PACE = 8
"""A job is asked about when it has become older by this part of its age."""

PER_FILE = 1
"""Nor sooner than this for each of its files (ms): to read what is told of one takes some 15 us."""

SWEEP = 5 * SECOND
"""The longest rest between two sweeps: a job that was just handed over waits no longer."""

AWAY = 10 * SECOND
BATCH = 1000
REMEMBERED = 10_000
AT_ONCE = 100
"""Jobs in one request: their ids are its path, and servers take 8 KiB."""

REQUESTS = 4
SETTLING = 16

ANOTHERS = object()
"""Stands for a server that only other hubs are configured with: its item is left to them."""


class Following:
    """Follows what ``agents`` have in flight, by the destination's scheme."""

    def __init__(self, floor: Floor, agents: Mapping[str, Agent], landing: Landing) -> None:
        self._floor = floor
        self._store = floor.store
        self._agents = agents
        self._landing = landing
        self._servers = {key_of(each.server.url): each.server for each in agents.values()}
        self._states: dict[str, Counter[str]] = {}
        """How many files were in which state when a job was last looked at here: what is as it was is not written."""

    def step(self) -> Step:
        """The lane that follows."""
        return Step(FOLLOW, max(1, len(self._servers)), self._begin_following, self.follow, self._rest)

    def _begin_following(self, connection: Connection, items: Sequence[Item]) -> dict[str, Any]:
        return {each.subject: self._servers.get(each.subject, ANOTHERS) for each in items}

    async def follow(self, item: Item) -> Outcome:
        """Ask about all jobs at a server that are due, and settle those that have ended."""
        if item.record is ANOTHERS:
            return Retry(AWAY)
        clock = self._floor.clock
        found = await self._store.read(
            "flights", partial(flights.due, server=item.subject, now=clock.now(), limit=BATCH)
        )
        parts = [found[first : first + AT_ONCE] for first in range(0, len(found), AT_ONCE)]
        if found:
            await item.record.keep_delegated()
        for first in range(0, len(parts), REQUESTS):
            await gather(*(self._ask_about(item, each) for each in parts[first : first + REQUESTS]))
        due = await self._store.read("next flight", partial(flights.next_due, server=item.subject))
        return Retry(SWEEP if due is None else min(SWEEP, max(0, due - clock.now())))

    def _rest(self, item: Item, error: Exception) -> Outcome:
        if isinstance(error, PassingFault | TimeoutError):
            log.warn("jobs at FTS can't be followed now: {error}", error=str(error))
        else:
            log.failure("following jobs at FTS met an internal fault; it goes on")
        return Retry(AWAY)

    async def _ask_about(self, item: Item, asked: Sequence[Flight]) -> None:
        told = await _look(item, asked)
        if isinstance(told, PassingFault):
            await self._ask_for_less(item, asked, told)
        else:
            await self._heed(item, asked, told)

    async def _ask_for_less(self, item: Item, asked: Sequence[Flight], error: PassingFault) -> None:
        """Ask about each half: it may be a single job of which the server can't tell, or of which it tells too much.

        That one is put off, so that all others go on; all are, if the server is in trouble whatever it is asked.
        """
        middle = len(asked) // 2
        halves = [asked[:middle], asked[middle:]] if middle else []
        told = [await _look(item, each) for each in halves]
        if all(isinstance(each, Trouble) for each in told):
            await self._put_aside(asked, error)
            return
        for half, each in zip(halves, told, strict=True):
            if isinstance(each, PassingFault):
                await self._ask_for_less(item, half, each)
            else:
                await self._heed(item, half, each)

    async def _put_aside(self, asked: Sequence[Flight], error: PassingFault) -> None:
        told = "jobs at FTS can't be followed now, {job} and {others} more: {error}"
        log.warn(told, job=asked[0].job, others=len(asked) - 1, error=str(error))
        due = self._floor.clock.now() + (AWAY if isinstance(error, Trouble) else LATEST)
        again = [Look(each.transfer, each.job, each.state, each.changed, due) for each in asked]
        await self._store.run("put off flights", partial(flights.put_off, looks=again))

    async def _heed(self, item: Item, asked: Sequence[Flight], found: Jobs) -> None:
        """Settle the jobs that have ended, and write down how far the others are."""
        jobs = {each.job_id: each for each in found if each.known}
        agent = next(each for each in self._agents.values() if each.server is item.record)
        now = self._floor.clock.now()
        going: list[tuple[Flight, Job]] = []
        ended: list[Flight] = []
        for flight in asked:
            job = jobs.get(flight.job)
            if job is not None:
                await self._list_files(flight, job)
            if job is None or has_ended(flight, job, now):
                ended.append(flight)
            else:
                going.append((flight, job))
        if going:
            await self._go_on(agent, going)
        for first in range(0, len(ended), SETTLING):
            some = ended[first : first + SETTLING]
            await gather(*(self._land(agent, each, jobs.get(each.job)) for each in some))
        if ended:
            self._floor.changed()
            self._floor.queue.announce(FTS)

    async def _go_on(self, agent: Agent, going: Sequence[tuple[Flight, Job]]) -> None:
        """Write down how far jobs are that go on, and when they are looked at next; cancel those that took too long."""
        now = self._floor.clock.now()
        looks: list[Look] = []
        notes: dict[str, dict[str, Any]] = {}
        late: list[Flight] = []
        for flight, job in going:
            state = _state(agent, flight, job, now)
            changed = flight.changed if state == flight.state else now
            if job.job_state != flight.state or self._is_news(job):
                notes[flight.transfer] = details(agent.server.url, job)
            if len(job.files) > 1:
                self._states[job.job_id] = states(job)
            if state == LATE and job.job_state not in FINAL_JOBS:
                late.append(flight)
            age = max(SOONEST, min(LATEST, (now - flight.since) // PACE), PER_FILE * len(job.files))
            looks.append(Look(flight.transfer, flight.job, state, changed, now + age))
        await self._store.run("put off flights", partial(_put_off, looks, notes))
        for first in range(0, len(late), SETTLING):
            await gather(*(self._cancel(agent, each) for each in late[first : first + SETTLING]))

    async def _cancel(self, agent: Agent, flight: Flight) -> None:
        """Cancel a job that took too long; what keeps it from that passes, or it ends for not being cancelled."""
        log.warn("transfer {id} took too long: its job {job} is cancelled", id=flight.transfer, job=flight.job)
        try:
            await agent.server.cancel(flight.job)
        except (Unknown, PassingFault) as error:
            log.warn("the job {job} can't be cancelled now: {error}", job=flight.job, error=str(error))

    async def _list_files(self, flight: Flight, job: Job) -> None:
        """Write down which files have come to their end, in batches; the last is written with the end of the job."""
        if not self._is_news(job) or (len(job.files) <= BATCH and conclude(job) is not None):
            return
        new = await self._store.read("files at FTS", partial(_new_files, flight, job))
        for first in range(0, len(new), BATCH):
            write_some = partial(_write_files, flight, new[first : first + BATCH])
            if not await self._store.run("keep files at FTS", write_some):
                return

    def _is_news(self, job: Job) -> bool:
        """Whether files of a job have got on since it was last looked at here."""
        if len(self._states) > REMEMBERED:
            self._states.clear()
        return len(job.files) > 1 and self._states.get(job.job_id) != states(job)

    async def _land(self, agent: Agent, flight: Flight, job: Job | None) -> None:
        self._states.pop(flight.job, None)
        try:
            settled = await self._store.run("settle what FTS did", partial(self._settle, agent, flight, job))
        except Superseded as error:
            log.info("{error}", error=str(error))
            return
        if settled and job is not None:
            self._landing.heed(flight.transfer, job)

    def _settle(self, agent: Agent, flight: Flight, job: Job | None, connection: Connection) -> bool:
        """End the transfer of a flight whose job has ended; if it is unknown there, let its step find out why."""
        now = self._floor.clock.now()
        again = Look(flight.transfer, flight.job, flight.state, flight.changed, now + LATEST)
        if job is None:
            if is_over(tables.find(connection, flight.transfer)):
                flights.land(connection, flight.transfer)
                return False
            ledger.wake(connection, FTS, [flight.transfer])
            flights.put_off(connection, [again])
            return False
        item = ledger.resume(connection, FTS, flight.transfer, self._floor.owner)
        transfer = tables.find(connection, flight.transfer, lock=True)
        if transfer is None or is_over(transfer):
            flights.land(connection, flight.transfer)
            return False
        if item is None or transfer.fts_jobid != flight.job:
            if item is not None:
                ledger.give_back(connection, item, self._floor.owner)
            flights.put_off(connection, [again])
            return False
        item = replace(item, record=transfer)
        outcome = self._landing.outcome(item, transfer, agent, job, flight)
        write(self._floor, item, outcome, connection)
        return True


async def _look(item: Item, asked: Sequence[Flight]) -> Jobs | PassingFault:
    """What the server says of jobs, or why that is no answer to the question."""
    try:
        found: Jobs = await item.record.look([flight.job for flight in asked])
    except (TooLarge, Trouble) as error:
        return error
    return found


def _state(agent: Agent, flight: Flight, job: Job, now: int) -> str:
    """The state of a flight: as FTS says, until the hub has it cancelled."""
    if flight.stopped:
        return flight.state
    return LATE if now - flight.since > 1000 * agent.patience(job) else job.job_state


def _new_files(flight: Flight, job: Job, connection: Connection) -> list[FileRecord]:
    """The files that have ended, and are not written down as they have."""
    transfer = tables.find(connection, flight.transfer)
    return [] if transfer is None else file_tables.news(connection, transfer.id, ended(job, final(transfer)))


def _write_files(flight: Flight, files: Sequence[FileRecord], connection: Connection) -> bool:
    """Write files down, unless the job is not followed any more."""
    current = flights.find(connection, flight.transfer)
    if current is None or current.job != flight.job:
        return False
    file_tables.amend(connection, flight.transfer, files)
    return True


def declare_servers(connection: Connection, urls: Mapping[str, str]) -> None:
    """Put an item for each server into the ledger, in which it stays, and make the lane."""
    ledger.declare(connection, FOLLOW, None)
    for each in set(urls.values()):
        ledger.enqueue(connection, FOLLOW, key_of(each), "hub")
    # Where they were parked before they had a lane of their own they keep slots.
    ledger.wake(connection, MOVE, flights.everywhere(connection))


def _put_off(looks: Sequence[Look], notes: Mapping[str, dict[str, Any]], connection: Connection) -> None:
    flights.put_off(connection, looks)
    for number, each in notes.items():
        tables.note(connection, number, fts_details=each)
