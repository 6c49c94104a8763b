"""The steps of a transfer, top to bottom: staged, then moved. Each may run twice; `kill -9` costs time only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import uniform
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.archive import Product
from datahub.errors import FinalFault, NoSpace, PassingFault, Unavailable
from datahub.kit.aio import within
from datahub.kit.clock import HubClock, rfc3339
from datahub.kit.sizes import count, format_duration
from datahub.store import Store
from datahub.transfers import tables
from datahub.transfers.attempts import ENDED, Attempts
from datahub.transfers.filing import Filing
from datahub.transfers.model import Status, Transfer, parse_checksum, printable
from datahub.transfers.movers import Delivery, DeliveryLost, Mover, Order
from datahub.transfers.stagers import Errand, Found, Stager
from datahub.work import Done, Fail, Item, Next, Outcome, Park, Record, Retry, ledger
from datahub.work.lane import Step
from datahub.work.sweeper import DEADLINE

__all__ = ["LANES", "MOVE", "STAGE", "Limits", "Pipeline", "too_late"]

log = Logger()

STAGE = "transfers.stage"
MOVE = "transfers.move"
LANES = (STAGE, MOVE)

FIRST_PAUSE = 1_000
LONGEST_PAUSE = 15 * 60_000
PASSING = (PassingFault, TimeoutError, NoSpace, Unavailable)
"""What may be well in a while; the last two are of the database."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, and how long; times in seconds."""

    staging: int
    moving: int
    staging_timeout: float
    retry_for: float
    weights: Mapping[str, float] = field(default_factory=dict)

    def cost(self, transfer: Transfer) -> int:
        """What a turn costs: less for a submitter of more weight and for a higher priority."""
        share = self.weights.get(transfer.submitter, 1.0) * transfer.priority / 3
        return max(1, round(ledger.COST / share))


class CallBackLate(PassingFault):
    """A stager took the request, and has not reported in time."""


class Pipeline:
    """Takes submitted transfers to their end; ``owner`` is this daemon's name in the ledger."""

    def __init__(
        self,
        store: Store,
        stager: Stager,
        movers: Mapping[str, Mover],
        limits: Limits,
        clock: HubClock,
        reactor: IReactorTime,
        owner: str,
    ) -> None:
        self._store = store
        self._stager = stager
        self._attempts = Attempts(store, clock, owner)
        self._movers = movers
        self._limits = limits
        self._clock = clock
        self._reactor = reactor
        self._owner = owner
        self.cost = limits.cost
        self.moved: dict[str, int] = {}
        """Bytes moved so far of each transfer that is under way here."""

    def steps(self) -> list[Step]:
        """The lanes, in the order a transfer goes through them."""
        return [
            Step(STAGE, self._limits.staging, self._begin(tables.begin_staging), self.stage, self.fault),
            Step(MOVE, self._limits.moving, self._begin(tables.begin_moving), self.move, self.fault),
        ]

    def _begin(self, move_on: Any) -> Any:
        def begin(connection: Connection, items: Sequence[Item]) -> dict[str, Transfer]:
            found: dict[str, Transfer] = move_on(connection, [item.subject for item in items], self._clock.wall())
            return found

        return begin

    async def stage(self, item: Item) -> Outcome:
        """Ask the stager: it has the product ready, or it calls back, which `datahub.transfers.reports` waits for."""
        transfer: Transfer = item.record
        timeout = self._limits.staging_timeout
        if transfer.status is Status.CANCELLING:
            return Done(self._cancelled(transfer))
        if item.note == DEADLINE:
            await self._attempts.give_up(item)
            raise CallBackLate(f"the stager has not called back within {format_duration(timeout)}")
        calls_back = self._stager.calls_back
        errand = await self._attempts.begin(item) if calls_back else Errand(transfer.id, transfer.product_id)
        staged = await within(timeout, self._stager.stage(errand), self._reactor, "staging")
        if isinstance(staged, Found):
            return Next(MOVE, self._staged(transfer, staged.product), self.cost(transfer))
        return Park(self._clock.now() + int(timeout * 1000), self._promised(transfer, staged.said))

    async def move(self, item: Item) -> Outcome:
        """Copy, commit what the copy is, give it its final name: a crash between any two is recognised."""
        transfer: Transfer = item.record
        mover = self._mover_of(transfer)
        if transfer.status is Status.CANCELLING:
            return await self._undo(item, transfer, mover)
        try:
            return await self._deliver(item, transfer, mover)
        except FinalFault:
            await mover.discard(self._order(item, transfer))
            raise
        finally:
            self.moved.pop(transfer.id, None)

    async def _undo(self, item: Item, transfer: Transfer, mover: Mover) -> Outcome:
        """Clear up what is to be stopped; what was delivered before anybody noticed is delivered."""
        order = self._order(item, transfer)
        if transfer.delivery is not None and await mover.is_published(order, transfer.delivery):
            await mover.publish(order, transfer.delivery)
            return Done(self._delivered(item, transfer, transfer.delivery))
        await mover.discard(order)
        return Done(self._cancelled(transfer))

    def _mover_of(self, transfer: Transfer) -> Mover:
        scheme = urlsplit(transfer.destination_path).scheme
        if scheme not in self._movers:
            # It had one when it was submitted, and will have it again if that was a slip.
            raise PassingFault(f"no mover for {scheme}:// is configured any more: see [transfers.movers]")
        return self._movers[scheme]

    async def _deliver(self, item: Item, transfer: Transfer, mover: Mover) -> Outcome:
        order = self._order(item, transfer)
        delivery = transfer.delivery
        if delivery is None:
            if item.attempt > 1:
                await mover.discard(order)
            product = await self._stager.locate(transfer)
            delivery = await self._copy(item, order, mover, product)
        await mover.publish(order, delivery)
        return Done(self._delivered(item, transfer, delivery))

    async def _copy(self, item: Item, order: Order, mover: Mover, product: Product) -> Delivery:
        filing = Filing(self._store, item, self._owner)
        try:
            async with filing.kept(self._reactor):
                delivery = await mover.copy(order, product, partial(self._count, item.subject), filing.note)
        except (PassingFault, FinalFault) as error:
            await filing.fail(str(error))
            raise
        put = await filing.end()
        await self._store.run("keep what is to be published", partial(self._keep, item, delivery, put))
        return delivery

    def fault(self, item: Item, error: Exception) -> Outcome:
        """Try again what may pass, until it has failed for ``retry_for``; end what will not, and say why."""
        transfer: Transfer = item.record
        if isinstance(error, FinalFault):
            return Fail(self._failed(item, transfer, str(error)))
        if not isinstance(error, PASSING):
            log.failure("{lane} of transfer {id} met an internal fault", lane=item.lane, id=transfer.id)
        reason = str(error) if isinstance(error, PASSING) else f"internal fault ({type(error).__name__}), see the log"
        late = isinstance(error, CallBackLate)
        since = (transfer.late_since if late else None) or transfer.failing_since or self._clock.wall()
        if self._clock.wall() - since > self._limits.retry_for * 1000:
            told = f"given up after {item.attempt} tries since {rfc3339(since)}: {reason}"
            return Fail(self._failed(item, transfer, told))
        pause = int(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(item.attempt - 1, 20)) * uniform(0.8, 1.2))
        log.info(
            "transfer {id} is tried again in {pause}: {reason}",
            id=transfer.id,
            pause=format_duration(pause / 1000),
            reason=reason,
        )
        more: dict[str, Any] = {"delivery": None} if isinstance(error, DeliveryLost) else {}
        if late:
            more["late_since"] = since
        return Retry(pause, self._put_off(item, transfer, reason, since, **more))

    def _order(self, item: Item, transfer: Transfer) -> Order:
        return Order(
            transfer.id, item.label, transfer.destination_path, transfer.overwrite, parse_checksum(transfer.checksum)
        )

    def _count(self, number: str, size: int) -> None:
        self.moved[number] = self.moved.get(number, 0) + size

    def _keep(self, item: Item, delivery: Delivery, put: Record, connection: Connection) -> None:
        ledger.hold(connection, item, self._owner)
        put(connection)
        tables.change(connection, item.record, self._clock.wall(), delivery=delivery)

    def _promised(self, transfer: Transfer, said: str) -> Record:
        # It has answered, so it is not away any more; `late_since` stays, so that a stager that only ever promises is
        # given up in the end.
        told = f"the stager has taken the request: {said}" if said else "the stager has taken the request"
        return self._change(transfer, stager_status=told, detailed_status=None, failing_since=None)

    def _staged(self, transfer: Transfer, product: Product) -> Record:
        return self._change(
            transfer,
            what="staged",
            time_staging_finished=self._clock.wall(),
            files=product.files,
            size=product.size,
            stager_path=printable(product.root),
            stager_status=f"found in the archive: {count(product.files, 'file')}, {count(product.size, 'byte')}",
            detailed_status=None,
            failing_since=None,
            late_since=None,
        )

    def _delivered(self, item: Item, transfer: Transfer, delivery: Delivery) -> Record:
        log.info("transfer {id} is delivered: {final}", id=transfer.id, final=delivery.final)
        return self._change(
            transfer,
            status=Status.SUCCESS,
            time_success=self._clock.wall(),
            detailed_status=f"delivered and verified: {delivery.final}",
            files=delivery.files,
            size=delivery.size,
            checksums=delivery.checksums,
            attempts=item.attempt,
            failing_since=None,
        )

    def _failed(self, item: Item, transfer: Transfer, reason: str) -> Record:
        log.warn("transfer {id} ends with an error: {reason}", id=transfer.id, reason=reason)
        return self._change(
            transfer,
            status=Status.ERROR,
            time_error=self._clock.wall(),
            detailed_status=reason,
            attempts=item.attempt,
            delivery=None,
            **(ENDED if item.lane == STAGE else {}),
        )

    def _put_off(self, item: Item, transfer: Transfer, reason: str, since: int, **changes: Any) -> Record:
        changes |= {"detailed_status": reason, "failing_since": since, "attempts": item.attempt}
        if transfer.status is Status.STAGING:
            changes["status"] = Status.SUBMITTED
        return self._change(transfer, what="retry", **changes)

    def _cancelled(self, transfer: Transfer) -> Record:
        """The end of what was to be stopped: by its submitter, or by its deadline."""
        now = self._clock.wall()
        if transfer.deadline is not None and now >= transfer.deadline:
            ended = partial(self._change, transfer, status=Status.ERROR, delivery=None)
            return ended(time_error=now, detailed_status=too_late(transfer))
        told = "cancelled; nothing of it is left at the destination"
        return self._change(transfer, status=Status.CANCELLED, time_cancelled=now, detailed_status=told, delivery=None)

    def _change(self, transfer: Transfer, **changes: Any) -> Record:
        return partial(tables.change, transfer_=transfer, now=self._clock.wall(), **changes)


def too_late(transfer: Transfer) -> str:
    """Why a transfer with a deadline ends in ERROR."""
    return f"its deadline {rfc3339(transfer.deadline or 0)} has passed"
