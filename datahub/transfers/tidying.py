"""What a transfer that has ended may have left at its destination: removed as soon as that can be done.

`datahub.transfers.orphans` looks where all names can be seen; of other hosts it is known only who has been there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.errors import FinalFault, PassingFault
from datahub.kit.clock import HubClock
from datahub.transfers import tables
from datahub.transfers.model import Status, Transfer, parse_checksum
from datahub.transfers.movers import Mover, Order
from datahub.transfers.movers.addresses import prefix_of
from datahub.work import Done, Item, Outcome, Retry
from datahub.work.lane import Step

__all__ = ["TIDY", "Tidying", "Untidy", "left_by", "mover_of", "order_of"]

log = Logger()

TIDY = "transfers.tidy"
"""The lane of what is to be removed after transfers that have ended in ERROR."""

AT_A_TIME = 2
FIRST_PAUSE = 60_000
LONGEST_PAUSE = 6 * 3_600_000
TIDY_FOR = 30 * 86_400_000
"""Milliseconds for which a server that was away, or did not let the hub in, is asked again."""


class Untidy(FinalFault):
    """It will not pass, and what was copied could not be removed."""


class Tidying:
    """Has ``movers`` discard what they could not discard before a transfer ended."""

    def __init__(self, movers: Mapping[str, Mover], clock: HubClock) -> None:
        self._movers = movers
        self._clock = clock

    def step(self) -> Step:
        """The lane."""
        return Step(TIDY, AT_A_TIME, _begin, self.tidy, self._fault)

    async def tidy(self, item: Item) -> Outcome:
        """Discard; who has taken the transfer up again meanwhile does so himself."""
        transfer: Transfer = item.record
        if transfer.status is Status.ERROR:
            await mover_of(transfer, self._movers).discard(order_of(item, transfer))
            log.info("nothing of transfer {id} is left at {place}", id=transfer.id, place=transfer.destination_path)
        return Done()

    def _fault(self, item: Item, error: Exception) -> Outcome:
        transfer: Transfer = item.record
        if not isinstance(error, (PassingFault, FinalFault)):
            log.failure("tidying up after transfer {id} met an internal fault", id=transfer.id)
        if self._clock.wall() - (transfer.time_error or 0) < TIDY_FOR:
            return Retry(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(item.attempt - 1, 20)))
        log.warn(
            "transfer {id} has left {names}* at {place}, which could not be removed: {reason}",
            id=transfer.id,
            names=left_by(transfer),
            place=transfer.destination_path,
            reason=str(error),
        )
        return Done()


def left_by(transfer: Transfer) -> str:
    """How all names begin under which a transfer may have left something."""
    return f"{prefix_of(transfer.destination_path)}{transfer.id}-"


def mover_of(transfer: Transfer, movers: Mapping[str, Mover]) -> Mover:
    """Who moves to the transfer's destination; raises `PassingFault` when nobody does any more."""
    scheme = urlsplit(transfer.destination_path).scheme
    if scheme not in movers:
        # It had one when it was submitted, and will have it again if that was a slip.
        raise PassingFault(f"no mover for {scheme}:// is configured any more: see [transfers.movers]")
    return movers[scheme]


def order_of(item: Item, transfer: Transfer) -> Order:
    """What the attempt that ``item`` stands for is to do."""
    checksum = parse_checksum(transfer.checksum)
    return Order(transfer.id, item.label, transfer.destination_path, transfer.overwrite, checksum)


def _begin(connection: Connection, items: Sequence[Item]) -> dict[str, Transfer]:
    found = (tables.find(connection, item.subject) for item in items)
    return {each.id: each for each in found if each is not None}
