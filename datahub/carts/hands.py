"""The files of a remote archive that a daemon has in hand: taken by rows that say so, each by one helper at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from twisted.internet.defer import DeferredLock

from datahub.archive.cache import Holding
from datahub.carts import fetch_tables
from datahub.carts.fetch_tables import Job
from datahub.carts.model import Cart
from datahub.kit.aio import start
from datahub.kit.clock import HubClock
from datahub.kit.threads import outlasting
from datahub.store import Store
from datahub.work import Item

__all__ = ["AT_ONCE", "Batch", "Hands"]

AT_ONCE: Final = 20
"""Files that one helper takes, one transaction for all of them."""
SMALL: Final = 16 * 1024 * 1024
"""The bytes that it takes to be fetched at once, if they are more than one file: other helpers are not to lack work."""


@dataclass(slots=True)
class Batch:
    """Files that a helper, with ``item``, has taken of a cart, and until when (ms) it sees to them."""

    item: Item
    cart: Cart
    until: int
    jobs: list[Job] = field(default_factory=list)
    left: set[int] = field(default_factory=set)
    """Those whose rows do not say yet what has become of them."""


class Hands:
    """Takes and releases; ``owner`` is this daemon's name in the rows."""

    def __init__(self, store: Store, clock: HubClock, owner: str) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._claiming = DeferredLock()
        self._in_hand: set[int] = set()

    async def fill(self, batch: Batch, state: str, count: int, first: int) -> None:
        """Take up to ``count`` files in ``state`` from position ``first`` on; what was taken is in the batch.

        Also when cancelled meanwhile: it has to be emptied in any case.
        """
        await outlasting(start(self._fill(batch, state, count, first)))

    async def _fill(self, batch: Batch, state: str, count: int, first: int) -> None:
        # One helper after the other: each has to know what the others have in hand.
        await self._claiming.acquire()
        try:
            claim = partial(
                fetch_tables.claim,
                number=batch.cart.id,
                state=state,
                now=self._clock.now(),
                owner=self._owner,
                count=count,
                most=SMALL,
                in_hand=frozenset(self._in_hand),
                first=first,
            )
            batch.jobs = await self._store.run("claim files", claim)
            batch.left = {job.holding.id for job in batch.jobs}
            self._in_hand |= batch.left
        finally:
            self._claiming.release()

    def let_go(self, batch: Batch, kept: Holding) -> None:
        """Have a file in hand no more, as its row says what has become of it."""
        batch.left.remove(kept.id)
        self._in_hand.discard(kept.id)

    async def empty(self, batch: Batch) -> None:
        """Let others see to what is left."""
        if batch.left:
            await outlasting(start(self._release(sorted(batch.left))))

    async def _release(self, numbers: Sequence[int]) -> None:
        try:
            await self._store.run("release files", partial(fetch_tables.release, numbers=numbers, owner=self._owner))
        finally:
            # If the row could not be written, it says that they are ours: the next claim takes them for free.
            self._in_hand.difference_update(numbers)
