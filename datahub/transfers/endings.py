"""How a step of a transfer ends: what its record says then, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from random import uniform
from typing import Any

from twisted.logger import Logger

from datahub.errors import FinalFault, NoSpace, PassingFault, Unavailable
from datahub.kit.clock import HubClock, rfc3339
from datahub.kit.sizes import format_duration
from datahub.transfers import tables
from datahub.transfers.attempts import ENDED
from datahub.transfers.model import Status, Transfer
from datahub.transfers.movers import Delivery, DeliveryLost
from datahub.work import Fail, Item, Outcome, Record, Retry, ledger

__all__ = ["FTS", "LONGEST_PAUSE", "MOVE", "STAGE", "CallBackLate", "CopyFailed", "Endings", "Limits", "too_late"]

log = Logger()

STAGE = "transfers.stage"
MOVE = "transfers.move"
FTS = "transfers.fts"
"""The lane of what FTS servers move, from the handing over to its end."""

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
    handed: frozenset[str] = frozenset()
    """The schemes of destinations to which FTS servers move."""

    def lane_of(self, transfer: Transfer) -> str:
        """Where a staged transfer goes on."""
        return FTS if transfer.destination_path.partition(":")[0].lower() in self.handed else MOVE

    def cost(self, transfer: Transfer) -> int:
        """What a turn costs: less for a submitter of more weight and for a higher priority."""
        share = self.weights.get(transfer.submitter, 1.0) * transfer.priority / 3
        return max(1, round(ledger.COST / share))


class BrokenPromise(PassingFault):
    """Who took a transfer on has not done it: that he takes it on another time does not make that good."""


class CallBackLate(BrokenPromise):
    """A stager took the request, and has not reported in time."""


class CopyFailed(BrokenPromise):
    """FTS took the job, and has not copied all of it."""


class Endings:
    """The ends that all steps have in common."""

    def __init__(self, limits: Limits, clock: HubClock) -> None:
        self._limits = limits
        self._clock = clock

    def fault(self, item: Item, error: Exception, left: str = "") -> Outcome:
        """Try again what may pass, until it has failed for ``retry_for``; end what will not, and say why.

        An end is told with what it has ``left``.
        """
        transfer: Transfer = item.record
        if isinstance(error, FinalFault):
            return Fail(self._failed(item, transfer, f"{error}{left}"))
        if not isinstance(error, PASSING):
            log.failure("{lane} of transfer {id} met an internal fault", lane=item.lane, id=transfer.id)
        reason = str(error) if isinstance(error, PASSING) else f"internal fault ({type(error).__name__}), see the log"
        late = isinstance(error, BrokenPromise)
        since = (transfer.late_since if late else None) or transfer.failing_since or self._clock.wall()
        if self._clock.wall() - since > self._limits.retry_for * 1000:
            told = f"given up after {item.attempt} tries since {rfc3339(since)}: {reason}{left}"
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

    def delivered(
        self, item: Item, transfer: Transfer, delivery: Delivery, *, lacking: str = "", **more: Any
    ) -> Record:
        """It has arrived, though something is ``lacking``."""
        log.info("transfer {id} is delivered: {final}", id=transfer.id, final=delivery.final)
        return self.change(
            transfer,
            status=Status.SUCCESS,
            time_success=self._clock.wall(),
            detailed_status=f"delivered and verified: {delivery.final}{lacking and '; '}{lacking}",
            files=delivery.files,
            size=delivery.size,
            checksums=delivery.checksums,
            attempts=item.attempt,
            failing_since=None,
            **more,
        )

    def _failed(self, item: Item, transfer: Transfer, reason: str) -> Record:
        log.warn("transfer {id} ends with an error: {reason}", id=transfer.id, reason=reason)
        return self.change(
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
        return self.change(transfer, what="retry", **changes)

    def cancelled(self, transfer: Transfer, told: str | None = None) -> Record:
        """The end of what was to be stopped: by its submitter, or by its deadline."""
        now = self._clock.wall()
        if transfer.deadline is not None and now >= transfer.deadline:
            ended = partial(self.change, transfer, status=Status.ERROR, delivery=None)
            return ended(time_error=now, detailed_status=too_late(transfer))
        told = told or "cancelled; nothing of it is left at the destination"
        return self.change(transfer, status=Status.CANCELLED, time_cancelled=now, detailed_status=told, delivery=None)

    def change(self, transfer: Transfer, **changes: Any) -> Record:
        """Change the record in the transaction that settles the step."""
        return partial(tables.change, transfer_=transfer, now=self._clock.wall(), **changes)


def too_late(transfer: Transfer) -> str:
    """Why a transfer with a deadline ends in ERROR."""
    return f"its deadline {rfc3339(transfer.deadline or 0)} has passed"
