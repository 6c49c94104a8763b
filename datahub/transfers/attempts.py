"""The attempts of a stager that calls back: each begins before the stager is asked, and its first report settles it.

An attempt outlasts its requests: one whose answer was lost is sent again with the same passcode, and whichever of them
the stager heard, its report counts. It ends when it is given up, be it for being late or with the transfer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Connection

from datahub.errors import Superseded
from datahub.kit.clock import HubClock
from datahub.store import Store
from datahub.transfers import passcode, tables
from datahub.transfers.model import Status
from datahub.transfers.stagers import Errand
from datahub.work import Item, ledger

__all__ = ["ENDED", "Attempts"]

ENDED: dict[str, Any] = {"staging_attempt": None, "staging_report": None}
"""What a record says when no report is awaited any more, nor any repetition of one."""


class Attempts:
    """Begins and gives up attempts for items that ``owner`` holds; a report may come before either has committed."""

    def __init__(self, store: Store, clock: HubClock, owner: str) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner

    async def begin(self, item: Item) -> Errand:
        """The errand of the attempt under way, or of a new one; it is committed, so the stager may be asked."""
        code = await self._store.run("begin a staging attempt", partial(self._begin, item))
        return Errand(item.subject, item.record.product_id, code)

    def _begin(self, item: Item, connection: Connection) -> str:
        ledger.hold(connection, item, self._owner)
        transfer = tables.find(connection, item.subject)
        if transfer is None or transfer.status is not Status.STAGING:
            raise Superseded(f"transfer {item.subject} is not {Status.STAGING} any more")
        attempt = transfer.staging_attempt
        if attempt is None or transfer.staging_report is not None:
            attempt = item.label
            now = self._clock.wall()
            tables.change(connection, transfer, now, staging_attempt=attempt, staging_report=None)
        return passcode.make(connection, transfer.id, transfer.product_id, attempt)

    async def give_up(self, item: Item) -> None:
        """End the attempt under way: a report of it comes too late."""
        await self._store.run("give up a staging attempt", partial(self._give_up, item))

    def _give_up(self, item: Item, connection: Connection) -> None:
        ledger.hold(connection, item, self._owner)
        tables.change(connection, item.record, self._clock.wall(), **ENDED)
