"""Transfers that a server carries out: handed over, and settled where they are.

A transfer that was handed over is parked: it keeps a slot of a lane of its own, which has many, and no memory, until
`datahub.transfers.following` sees what has become of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.archive import Product
from datahub.errors import PassingFault
from datahub.kit.aio import shield
from datahub.transfers import file_tables, flights, tables
from datahub.transfers.endings import Endings
from datahub.transfers.flights import CANCELED, Flight, Look, key_of
from datahub.transfers.following import SOONEST, SWEEP, Following
from datahub.transfers.landing import LEFT, STOPPING, Landing
from datahub.transfers.model import Status, Transfer, parse_checksum
from datahub.transfers.movers import Order
from datahub.transfers.movers.fts import Hidden, Job, Refused, Unknown
from datahub.transfers.movers.fts_jobs import Agent, Before
from datahub.transfers.reasons import Reasons
from datahub.work import Done, Item, Outcome, Park, Retry, ledger
from datahub.work.lane import Floor, Step

__all__ = ["AT_A_TIME", "LOOK_AGAIN", "SENDING", "Handing"]

log = Logger()

SECOND = 1000
SENDING = 660 * SECOND
"""A submission whose end is unknown has come to its end by then.

That is a POST, a delegation anew after waiting for another's (eight requests), a second POST, and a minute of the
server's own; each takes `datahub.transfers.movers.fts_wire.ANSWER` at most.
"""

LOOK_AGAIN = 24 * 3600 * SECOND

AT_A_TIME = 4
"""Transfers that one hub hands over at a time."""

Find = Callable[[Transfer], Awaitable[Product]]


class Handing:
    """Hands over to ``agents``, by the destination's scheme, and follows."""

    def __init__(self, floor: Floor, agents: Mapping[str, Agent], endings: Endings) -> None:
        self._floor = floor
        self._store = floor.store
        self._agents = agents
        self._endings = endings
        self._landing = Landing(floor.clock, endings)
        self._following = Following(floor, agents, self._landing)

    @property
    def reasons(self) -> Reasons:
        """What FTS said that nobody has classified."""
        return self._landing.reasons

    def step(self) -> Step:
        """The lane that follows."""
        return self._following.step()

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
            flight = await self._store.read("find a flight", partial(flights.find, transfer=transfer.id))
            if found is None and flight is not None and flight.state:
                return self._landing.lost(item, transfer, agent, job)
            if found is not None:
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

    def _outcome(self, item: Item, transfer: Transfer, agent: Agent, job: Job, flight: Flight | None) -> Outcome | None:
        outcome = self._landing.outcome(item, transfer, agent, job, flight)
        if outcome is not None:
            self._landing.heed(transfer.id, job)
        return outcome

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

    def _parked(self, transfer: Transfer, agent: Agent, job: str) -> Park:
        now, key = self._floor.clock.now(), key_of(agent.server.url)

        def record(connection: Connection) -> None:
            told = f"handed over to {agent.server.url}"
            wall = self._floor.clock.wall()
            # What kept it from there is over; `late_since` stays, so that FTS is given up if it only ever fails.
            tables.change(connection, transfer, wall, fts_jobid=job, detailed_status=told, failing_since=None)
            if not flights.keep(connection, transfer.id, job, now + SOONEST):
                flights.enter(connection, transfer.id, key, job, now, now + SOONEST)

        return Park(now + LOOK_AGAIN, record)

    async def _cancel(self, item: Item, transfer: Transfer, agent: Agent) -> Outcome:
        """Ask for it; that it has come about the follower sees."""
        if transfer.fts_jobid is None:
            return Done(self._landing.over(transfer, self._endings.cancelled(transfer)))
        # Nobody has looked what former jobs have left.
        cancelled = Done(self._landing.over(transfer, self._endings.cancelled(transfer, LEFT)))
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
        # When it began to be cancelled stays: what never stops is not waited for for ever.
        since = flight.changed if flight and flight.stopped else now
        look = Look(transfer.id, transfer.fts_jobid, CANCELED, since, now + SECOND)
        return Park(now + STOPPING, partial(flights.put_off, looks=[look]))


def _order(item: Item, transfer: Transfer) -> Order:
    checksum = parse_checksum(transfer.checksum)
    return Order(transfer.id, item.label, transfer.destination_path, transfer.overwrite, checksum)
