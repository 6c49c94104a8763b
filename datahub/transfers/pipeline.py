"""The steps of a transfer, top to bottom: staged, then moved. Each may run twice; `kill -9` costs time only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection
from twisted.internet.interfaces import IReactorTime

from datahub.archive import Product
from datahub.errors import FinalFault, PassingFault
from datahub.kit.aio import within
from datahub.kit.clock import HubClock
from datahub.kit.sizes import count, format_duration
from datahub.store import Store
from datahub.transfers import claims, tables
from datahub.transfers.attempts import Attempts
from datahub.transfers.endings import FTS, MOVE, STAGE, CallBackLate, Endings, Limits, too_late
from datahub.transfers.filing import Filing
from datahub.transfers.handing import AT_A_TIME, Handing
from datahub.transfers.model import Status, Transfer, printable
from datahub.transfers.movers import Delivery, Mover, Order
from datahub.transfers.stagers import Errand, Found, Stager
from datahub.transfers.tidying import TIDY, Tidying, Untidy, left_by, mover_of, order_of
from datahub.work import Done, Fail, Item, Next, Outcome, Park, Record, ledger
from datahub.work.lane import Step
from datahub.work.sweeper import DEADLINE

__all__ = ["FTS", "LANES", "MOVE", "STAGE", "Limits", "Pipeline", "too_late"]

LANES = (STAGE, MOVE, FTS)


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
        handing: Handing | None = None,
    ) -> None:
        self._store = store
        self._stager = stager
        self._attempts = Attempts(store, clock, owner)
        self._movers = movers
        self._limits = limits
        self._handing = handing
        self._endings = Endings(limits, clock)
        self.fault = self._endings.fault
        self._clock = clock
        self._reactor = reactor
        self._owner = owner
        self.cost = limits.cost
        self.moved: dict[str, int] = {}
        """Bytes moved so far of each transfer that is under way here."""

    def steps(self) -> list[Step]:
        """The lanes, in the order a transfer goes through them."""
        follow = [self._handing.step()] if self._handing else []
        tidy = Tidying(self._movers, self._clock).step()
        return [
            Step(STAGE, self._limits.staging, self._begin(tables.begin_staging), self.stage, self.fault),
            Step(MOVE, self._limits.moving, self._begin(tables.begin_moving), self.move, self._moving_fault),
            Step(FTS, AT_A_TIME, self._begin(tables.begin_moving), self.hand_over, self.fault),
            *follow,
            tidy,
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
            return Done(self._endings.cancelled(transfer))
        if item.note == DEADLINE:
            await self._attempts.give_up(item)
            raise CallBackLate(f"the stager has not called back within {format_duration(timeout)}")
        calls_back = self._stager.calls_back
        errand = await self._attempts.begin(item) if calls_back else Errand(transfer.id, transfer.product_id)
        staged = await within(timeout, self._stager.stage(errand), self._reactor, "staging")
        if isinstance(staged, Found):
            return Next(self._limits.lane_of(transfer), self._staged(transfer, staged.product), self.cost(transfer))
        return Park(self._clock.now() + int(timeout * 1000), self._promised(transfer, staged.said))

    async def move(self, item: Item) -> Outcome:
        """Copy, commit what the copy is, give it its final name: a crash between any two is recognised."""
        transfer: Transfer = item.record
        if transfer.fts_attempt is not None or self._limits.lane_of(transfer) == FTS:
            return Next(FTS, cost=self.cost(transfer))
        mover = mover_of(transfer, self._movers)
        try:
            if transfer.status is Status.CANCELLING:
                return await self._undo(item, transfer, mover)
            return await self._deliver(item, transfer, mover)
        except FinalFault as error:
            await _discard_after(error, order_of(item, transfer), mover)
            raise
        finally:
            self.moved.pop(transfer.id, None)

    def _moving_fault(self, item: Item, error: Exception) -> Outcome:
        """Try again, or end; what nobody could remove before that is removed later."""
        if isinstance(error, FinalFault) and not isinstance(error, Untidy):
            return self.fault(item, error)
        left = f"; what may be left of it, {left_by(item.record)}*, is removed as soon as that can be done"
        outcome = self._endings.fault(item, error, left)
        return Next(TIDY, outcome.record) if isinstance(outcome, Fail) else outcome

    async def hand_over(self, item: Item) -> Outcome:
        """Have an FTS server move it; if none does any more, and none has begun, it is moved here."""
        transfer: Transfer = item.record
        agent = await self._handing.agent_of(transfer) if self._handing else None
        if self._handing is not None and agent is not None:
            return await self._handing.move(item, transfer, agent, self._product)
        if transfer.fts_attempt is not None:
            # It may be copied there; nobody else copies it a second time.
            server = (transfer.fts_details or {}).get("server", "an FTS server")
            raise PassingFault(f"it was handed over to {server}, which is not configured any more: configure it again")
        return Next(MOVE, cost=self.cost(transfer))

    async def _undo(self, item: Item, transfer: Transfer, mover: Mover) -> Outcome:
        """Clear up what is to be stopped; what was delivered before anybody noticed is delivered."""
        order = order_of(item, transfer)
        if transfer.delivery is not None and await mover.is_published(order, transfer.delivery):
            await mover.publish(order, transfer.delivery)
            return Done(self._endings.delivered(item, transfer, transfer.delivery))
        await mover.discard(order)
        return Done(self._endings.cancelled(transfer))

    async def _deliver(self, item: Item, transfer: Transfer, mover: Mover) -> Outcome:
        order = order_of(item, transfer)
        delivery = transfer.delivery
        if delivery is None:
            if item.attempt > 1 or transfer.attempts:
                await mover.discard(order)
            product = await self._product(transfer, remote=mover.fetches)
            await self._claim(item, mover.claims(order, product.name))
            delivery = await self._copy(item, order, mover, product)
        await mover.publish(order, delivery)
        return Done(self._endings.delivered(item, transfer, delivery))

    async def _claim(self, item: Item, name: str | None) -> None:
        """Let nobody else move to ``name`` before this transfer has ended; raises `PassingFault` if somebody does."""
        if name is None:
            return
        other = await self._store.run("claim a name", partial(self._take, item, name))
        if other is not None:
            raise PassingFault(f"transfer {other} is on its way to the same name, and goes first")

    def _take(self, item: Item, name: str, connection: Connection) -> str | None:
        ledger.hold(connection, item, self._owner)
        return claims.take(connection, name, item.subject)

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

    async def _product(self, transfer: Transfer, *, remote: bool = True) -> Product:
        """What is to be moved: where it is, if the mover can take it from there."""
        found = self._stager.remote(transfer) if remote else None
        return found or await self._stager.locate(transfer)

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
        return self._endings.change(transfer, stager_status=told, detailed_status=None, failing_since=None)

    def _staged(self, transfer: Transfer, product: Product) -> Record:
        return self._endings.change(
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


async def _discard_after(error: FinalFault, order: Order, mover: Mover) -> None:
    """Leave nothing; raises `Untidy`, with the reason of the end in front, when something may be left."""
    try:
        await mover.discard(order)
    except (PassingFault, FinalFault) as fault:
        raise Untidy(f"{error}; what was copied could not be removed: {fault}") from fault
