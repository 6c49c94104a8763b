"""Transfers that a server carries out: handed over, followed by asking for many at once, and settled where they are.

A transfer that was handed over is parked: it keeps a slot of a lane of its own, which has many, and no memory. One item
a server, in another lane, asks about all jobs that are due; a younger job is due more often. Any hub may follow what
another has handed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.archive import Product
from datahub.errors import FinalFault, PassingFault, Superseded
from datahub.kit.aio import gather, shield
from datahub.kit.sizes import count
from datahub.transfers import file_tables, flights, tables
from datahub.transfers.endings import FTS, MOVE, CopyFailed, Endings
from datahub.transfers.flights import Flight, Look, key_of
from datahub.transfers.model import Status, Transfer, parse_checksum
from datahub.transfers.movers import Delivery, Order
from datahub.transfers.movers.addresses import final_url
from datahub.transfers.movers.fts import Hidden, Job, Refused, TooLarge, Unknown
from datahub.transfers.movers.fts_errors import Verdict
from datahub.transfers.movers.fts_jobs import Agent, Before, End, conclude, details, ended, states
from datahub.work import Done, Item, Outcome, Park, Record, Retry, ledger
from datahub.work.lane import Floor, Step, write

__all__ = ["AT_A_TIME", "FOLLOW", "Handing", "declare_servers"]

log = Logger()

FOLLOW = "transfers.follow"
CANCELED = "CANCELED"  # as FTS writes it

SECOND = 1000
SOONEST, LATEST = 2 * SECOND, 60 * SECOND
PACE = 8
"""A job is asked about when it has become older by this part of its age."""

SWEEP = 5 * SECOND
"""The longest rest between two sweeps: a job that was just handed over waits no longer."""

AWAY = 10 * SECOND
SENDING = 660 * SECOND
"""A submission whose end is unknown has come to its end by then.

That is a POST, a delegation anew after waiting for another's (eight requests), a second POST, and a minute of the
server's own; each takes `datahub.transfers.movers.fts_wire.ANSWER` at most.
"""

LOOK_AGAIN = 24 * 3600 * SECOND
STOPPING = 15 * 60 * SECOND
"""So long a copy may go on after its cancellation; FTS itself takes it for dead by then."""

BATCH = 1000
REMEMBERED = 10_000
AT_ONCE = 100
"""Jobs in one request: their ids are its path, and servers take 8 KiB."""

REQUESTS = 4
SETTLING = 16

AT_A_TIME = 4
"""Transfers that one hub hands over at a time."""

ANOTHERS = object()
"""Stands for a server that only other hubs are configured with: its item is left to them."""

Find = Callable[[Transfer], Awaitable[Product]]


class Handing:
    """Hands over to ``agents``, by the destination's scheme, and follows."""

    def __init__(self, floor: Floor, agents: Mapping[str, Agent], endings: Endings) -> None:
        self._floor = floor
        self._store = floor.store
        self._agents = agents
        self._endings = endings
        self._servers = {key_of(each.server.url): each.server for each in agents.values()}
        self._states: dict[str, Counter[str]] = {}
        """How many files were in which state when a job was last looked at here: what is as it was is not written."""
        self.unknown = 0
        """Reasons of failures that nobody has classified yet."""

    def step(self) -> Step:
        """The lane that follows."""
        return Step(FOLLOW, max(1, len(self._servers)), self._begin_following, self.follow, self._rest)

    async def agent_of(self, transfer: Transfer) -> Agent | None:
        """Who carries out ``transfer``, be it that its scheme has gone to another since; None if a mover does."""
        agent = self._agents.get(transfer.destination_path.partition(":")[0].lower())
        if transfer.fts_attempt is None:
            return agent
        flight = await self._store.read("find a flight", partial(flights.find, transfer=transfer.id))
        if flight is None or (agent is not None and key_of(agent.server.url) == flight.server):
            return agent
        return next((each for each in self._agents.values() if key_of(each.server.url) == flight.server), None)

    async def move(self, item: Item, transfer: Transfer, agent: Agent, find: Find) -> Outcome:
        """Hand over, unless that was done; a transfer that is being cancelled is cancelled there."""
        if transfer.status is Status.CANCELLING:
            return await self._cancel(item, transfer, agent)
        known = transfer.fts_attempt is not None
        sid = transfer.fts_attempt or f"{transfer.id}.{item.label}"
        if known:
            job = transfer.fts_jobid or ""
            found = await self._recall(agent, job)
            if found is not None:
                flight = await self._store.read("find a flight", partial(flights.find, transfer=transfer.id))
                outcome = self._outcome(item, transfer, agent, found, flight)
                return outcome or self._parked(transfer, agent, job)
        else:
            job = await agent.server.id_of(sid)
        order = _order(item, transfer)
        careful = known or transfer.fts_jobid is not None
        before = await self._before(transfer) if careful else None
        product = await find(transfer)
        body = await agent.compose(order, product, sid, transfer.priority, careful=careful, before=before)
        await agent.server.delegate()
        # Not sooner: from now on it may be on its way, for `SENDING`.
        await self._store.run("begin to hand over", partial(self._begin, item, agent, sid, job, careful))
        # Whether it is stopped or not, the server hears it as a whole: half of a submission is one, too.
        taken = await shield(self._submit(agent, body, job), "a submission to FTS")
        log.info("transfer {id} is handed over to {url} as {job}", id=transfer.id, url=agent.server.url, job=taken)
        return self._parked(transfer, agent, taken)

    async def _submit(self, agent: Agent, body: dict[str, Any], job: str) -> str:
        try:
            return await agent.server.submit(body)
        except Refused as refusal:
            (found,) = await agent.server.look([job])
            if found.known:
                return job
            raise PassingFault(f"{agent.server.url} has another transfer to the same destination: {refusal}") from None

    async def _before(self, transfer: Transfer) -> Before:
        """What earlier jobs have copied: they are left out, unless who has it retried may have removed some since."""
        done = await self._store.read("copied files", partial(file_tables.done, job=transfer.id))
        return Before(done, skip=transfer.late_since is not None)

    def _begin(self, item: Item, agent: Agent, sid: str, job: str, careful: bool, connection: Connection) -> None:
        """Commit the attempt before anybody else knows of it."""
        ledger.hold(connection, item, self._floor.owner)
        if careful:
            file_tables.forget_failed(connection, item.subject)
        else:
            file_tables.put(connection, item.subject, 0, [])
        now = self._floor.clock.now()
        at = {"server": agent.server.url, "job_id": job}
        known: dict[str, Any] = {"fts_attempt": sid, "fts_jobid": job, "fts_details": at}
        tables.change(connection, item.record, self._floor.clock.wall(), **known)
        flights.enter(connection, item.subject, key_of(agent.server.url), job, now, now + SENDING)

    async def _recall(self, agent: Agent, job: str) -> Job | None:
        """What the server knows of a job, be it only in its archive."""
        try:
            (found,) = await agent.server.look([job])
            if found.hidden:
                raise Hidden(f"{agent.server.url} does not show the hub its job: {found.http_message}")
            return found if found.known else await agent.server.recall(job)
        except Unknown:
            return None
        except FinalFault as refusal:
            # Of the hub, not of the transfer, which goes on there all the same.
            raise PassingFault(str(refusal)) from refusal

    def _parked(self, transfer: Transfer, agent: Agent, job: str) -> Park:
        now, key = self._floor.clock.now(), key_of(agent.server.url)

        def record(connection: Connection) -> None:
            told = f"handed over to {agent.server.url}"
            wall = self._floor.clock.wall()
            # What kept it from there is over; `late_since` stays, so that FTS is given up if it only ever fails.
            tables.change(connection, transfer, wall, fts_jobid=job, detailed_status=told, failing_since=None)
            flights.enter(connection, transfer.id, key, job, now, now + SOONEST)

        return Park(now + LOOK_AGAIN, record)

    async def _cancel(self, item: Item, transfer: Transfer, agent: Agent) -> Outcome:
        """Ask for it; that it has come about the follower sees."""
        if transfer.fts_jobid is None:
            return Done(self._over(transfer, self._endings.cancelled(transfer)))
        # Nobody has looked what former jobs have left.
        cancelled = Done(self._over(transfer, self._endings.cancelled(transfer, LEFT)))
        if transfer.fts_attempt is None:
            return cancelled
        now = self._floor.clock.now()
        flight = await self._store.read("find a flight", partial(flights.find, transfer=transfer.id))
        try:
            await agent.server.cancel(transfer.fts_jobid)
        except Unknown:
            if flight and now - flight.since < SENDING:
                return Retry(SWEEP)  # it may be on its way still
            # It may have ended, and be purged.
            found = await self._recall(agent, transfer.fts_jobid)
            return (found and self._outcome(item, transfer, agent, found, None)) or cancelled
        except FinalFault as refusal:
            raise PassingFault(str(refusal)) from refusal
        # When it began to be cancelled stays: what never stops is not waited for for ever.
        since = flight.changed if flight and flight.state == CANCELED else now
        look = Look(transfer.id, transfer.fts_jobid, CANCELED, since, now + SECOND)
        return Park(now + STOPPING, partial(flights.put_off, looks=[look]))

    def _outcome(self, item: Item, transfer: Transfer, agent: Agent, job: Job, flight: Flight | None) -> Outcome | None:
        """What becomes of a transfer whose job is as ``job`` says; None while that goes on."""
        now = self._floor.clock.now()
        end = conclude(job, overdue=flight is not None and _is_overdue(flight, job, now))
        if end is None:
            return None
        note: dict[str, Any] = {"fts_details": details(agent.server.url, job), "job": job}
        if not end.failures:
            lacking = f"without {count(end.empty, 'empty folder')}, of which FTS makes none" if end.empty else ""
            delivered = self._endings.delivered(item, transfer, _delivery(transfer, end), lacking=lacking)
            return Done(self._over(transfer, delivered, **note))
        if transfer.status is Status.CANCELLING:
            return Done(
                self._over(transfer, self._endings.cancelled(transfer, _left(end) if job.files else LEFT), **note)
            )
        if end.foreign and transfer.overwrite:
            # Nothing of ours is there to be taken care of: without a former job, the next one may replace it.
            note["fts_jobid"] = None
            error: Exception = CopyFailed(f"{agent.server.url}: it is to be replaced: {end.told}")
        else:
            error = self._error(transfer, agent, end)
        if end.copied:
            # It has got on.
            item = replace(item, record=replace(transfer, failing_since=None, late_since=None))
        outcome = self._endings.fault(item, error)
        return replace(outcome, record=self._over(transfer, outcome.record, **note))

    def _error(self, transfer: Transfer, agent: Agent, end: End) -> Exception:
        verdict, told = end.verdict, f"{agent.server.url}: {end.told}"
        if verdict is Verdict.UNKNOWN:
            self.unknown += 1
            log.warn("FTS gives a reason that is not known ({id}): {told}", id=transfer.id, told=told)
        return FinalFault(told) if verdict is Verdict.NEVER else CopyFailed(told)

    def _over(self, transfer: Transfer, record: Record, job: Job | None = None, **note: Any) -> Record:
        """The attempt is over: it is forgotten with what ``record`` says, and with its ``job``'s files."""

        def both(connection: Connection) -> None:
            flights.land(connection, transfer.id)
            if job is not None:
                file_tables.amend(connection, transfer.id, ended(job, _final(transfer)))
            tables.note(connection, transfer.id, fts_attempt=None, **note)
            record(connection)

        return both

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
        if isinstance(error, PassingFault | FinalFault | TimeoutError):
            log.warn("jobs at FTS can't be followed now: {error}", error=str(error))
        else:
            log.failure("following jobs at FTS met an internal fault; it goes on")
        return Retry(AWAY)

    async def _ask_about(self, item: Item, asked: Sequence[Flight]) -> None:
        try:
            found = await item.record.look([flight.job for flight in asked])
        except TooLarge as error:
            await self._ask_for_less(item, asked, error)
            return
        jobs = {each.job_id: each for each in found if each.known}
        agent = next(each for each in self._agents.values() if each.server is item.record)
        now = self._floor.clock.now()
        going: list[tuple[Flight, Job]] = []
        ended: list[Flight] = []
        for flight in asked:
            job = jobs.get(flight.job)
            if job is not None:
                await self._list_files(flight, job)
            if job is None or conclude(job, overdue=_is_overdue(flight, job, now)) is not None:
                ended.append(flight)
            else:
                going.append((flight, job))
        if going:
            await self._store.run("put off flights", self._put_off(item.record.url, going))
        for first in range(0, len(ended), SETTLING):
            some = ended[first : first + SETTLING]
            await gather(*(self._land(agent, each, jobs.get(each.job)) for each in some))
        if ended:
            self._floor.changed()
            self._floor.queue.announce(FTS)

    def _put_off(self, server: str, going: Sequence[tuple[Flight, Job]]) -> Callable[[Connection], None]:
        """Write down how far jobs are that go on, and when they are looked at next."""
        now = self._floor.clock.now()
        looks: list[Look] = []
        notes: dict[str, dict[str, Any]] = {}
        for flight, job in going:
            changed = flight.changed if job.job_state == flight.state else now
            if job.job_state != flight.state or self._is_news(job):
                notes[flight.transfer] = details(server, job)
            if len(job.files) > 1:
                self._states[job.job_id] = states(job)
            age = max(SOONEST, min(LATEST, (now - flight.since) // PACE))
            looks.append(Look(flight.transfer, flight.job, job.job_state, changed, now + age))
        return partial(_put_off, looks, notes)

    async def _ask_for_less(self, item: Item, asked: Sequence[Flight], error: TooLarge) -> None:
        """Ask about each half; a single job whose answer is too large is put off, so that all others go on."""
        if len(asked) > 1:
            middle = len(asked) // 2
            await self._ask_about(item, asked[:middle])
            await self._ask_about(item, asked[middle:])
            return
        (flight,) = asked
        told = "transfer {id} can't be followed, its job {job} has too many files: {error}"
        log.warn(told, id=flight.transfer, job=flight.job, error=str(error))
        again = Look(flight.transfer, flight.job, flight.state, flight.changed, self._floor.clock.now() + LATEST)
        await self._store.run("put off a flight", partial(flights.put_off, looks=[again]))

    async def _list_files(self, flight: Flight, job: Job) -> None:
        """Write down which files have come to their end, in batches; the last is written with the end of the job."""
        if not self._is_news(job) or (len(job.files) <= BATCH and conclude(job) is not None):
            return
        while await self._store.run("keep files at FTS", partial(self._write_files, flight, job)):
            pass

    def _is_news(self, job: Job) -> bool:
        """Whether files of a job have got on since it was last looked at here."""
        if len(self._states) > REMEMBERED:
            self._states.clear()
        return len(job.files) > 1 and self._states.get(job.job_id) != states(job)

    def _write_files(self, flight: Flight, job: Job, connection: Connection) -> bool:
        current = flights.find(connection, flight.transfer)
        transfer = tables.find(connection, flight.transfer)
        if transfer is None or current is None or current.job != job.job_id:
            return False
        return file_tables.amend(connection, transfer.id, ended(job, _final(transfer)), BATCH)

    async def _land(self, agent: Agent, flight: Flight, job: Job | None) -> None:
        self._states.pop(flight.job, None)
        try:
            await self._store.run("settle what FTS did", partial(self._settle, agent, flight, job))
        except Superseded as error:
            log.info("{error}", error=str(error))

    def _settle(self, agent: Agent, flight: Flight, job: Job | None, connection: Connection) -> None:
        """End the transfer of a flight whose job has ended; if it is unknown there, let its step find out why."""
        now = self._floor.clock.now()
        again = Look(flight.transfer, flight.job, flight.state, flight.changed, now + LATEST)
        if job is None:
            if _is_over(tables.find(connection, flight.transfer)):
                flights.land(connection, flight.transfer)
                return
            ledger.wake(connection, FTS, [flight.transfer])
            flights.put_off(connection, [again])
            return
        item = ledger.resume(connection, FTS, flight.transfer, self._floor.owner)
        transfer = tables.find(connection, flight.transfer, lock=True)
        if transfer is None or _is_over(transfer):
            flights.land(connection, flight.transfer)
            return
        if item is None or transfer.fts_jobid != flight.job:
            if item is not None:
                ledger.give_back(connection, item, self._floor.owner)
            flights.put_off(connection, [again])
            return
        item = replace(item, record=transfer)
        outcome = self._outcome(item, transfer, agent, job, flight)
        write(self._floor, item, outcome, connection)


def _is_overdue(flight: Flight, job: Job, now: int) -> bool:
    """Whether a job was seen in its present state so long ago that what still runs of it is not waited for."""
    return flight.state == job.job_state and now - flight.changed > STOPPING


def _is_over(transfer: Transfer | None) -> bool:
    return transfer is None or transfer.status.final


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


def _order(item: Item, transfer: Transfer) -> Order:
    checksum = parse_checksum(transfer.checksum)
    return Order(transfer.id, item.label, transfer.destination_path, transfer.overwrite, checksum)


def _name(transfer: Transfer) -> str:
    place = transfer.stager_path if transfer.stager_hostname else None
    return (place or transfer.product_id).rstrip("/").rpartition("/")[2]


def _final(transfer: Transfer) -> str:
    return final_url(transfer.destination_path, _name(transfer))


LEFT = "cancelled; FTS was told to stop, and what had arrived before is still at the destination"

STILL_WRITTEN = "cancelled; FTS was told to stop, and has not said that it did: the destination may still be written"


def _left(end: End) -> str | None:
    """What may be at the destination of what was cancelled; None if nothing is."""
    if end.running:
        return STILL_WRITTEN
    if end.files:
        return f"cancelled; {count(end.files, 'file')} had arrived before, and are still there"
    if end.begun:
        return "cancelled while it was copied; FTS removes what it has begun, once it has stopped"
    return None


def _delivery(transfer: Transfer, end: End) -> Delivery:
    # FTS may have told that it has FINISHED and nothing of the files.
    size, files = end.size or transfer.size or 0, end.files or transfer.files or 0
    return Delivery(
        final=_final(transfer), temporary="", device=0, inode=0, files=files, size=size, checksums=end.checksums
    )
