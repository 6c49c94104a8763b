"""How carts are filled from a remote archive: every file is asked for, room is reserved, then they are fetched.

Several helpers work at a cart, each with a slot of the whole cluster; each works for a moment and then queues again, so
that all carts have their turns. What they know is in the rows of what is kept, which any of them can go on with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.archive import cache
from datahub.archive.cache import HELD, KNOWN, NEW, RESERVED, Cache
from datahub.carts import fetch_tables, tables, waits
from datahub.carts.adopting import Adopted, adopt, keep_staged
from datahub.carts.copying import FIRST_PAUSE, LONGEST_PAUSE, CartFails, Copier, Remote, RemoteLimits
from datahub.carts.downloads import Downloads
from datahub.carts.fetch_tables import Group
from datahub.carts.hands import AT_ONCE, Batch, Hands
from datahub.carts.model import FAILED, WAITING, Cart, CartFile, Status
from datahub.carts.room import Room
from datahub.errors import FinalFault
from datahub.kit.aio import sleep, start
from datahub.kit.clock import HubClock
from datahub.kit.sizes import format_duration
from datahub.kit.threads import Pool, outlasting, stoppable
from datahub.store import Store
from datahub.work import Done, Item, Next, Outcome, Retry, ledger

__all__ = ["FETCH", "Fetcher", "subjects"]

log = Logger()

FETCH: Final = "carts.fetch"
WINDOW: Final = 500
SLICE: Final = 2_000
"""Milliseconds that a helper works before it queues again."""
NO_ROOM: Final = 5_000
BREATH: Final = 0.02
LONGEST_BREATH: Final = 0.3
"""Seconds between two looks whether others are done: short first, as many files are small."""
ADOPTED: Final = 200


class Fetcher:
    """Does the work; ``owner`` is this daemon's name in the ledger."""

    def __init__(
        self,
        store: Store,
        archive: Remote,
        kept: Cache,
        pool: Pool,
        downloads: Downloads,
        limits: RemoteLimits,
        clock: HubClock,
        reactor: IReactorTime,
        owner: str,
    ) -> None:
        self._store = store
        self._pool = pool
        self._room = Room(store, kept, downloads, clock, limits.evict_after)
        self._limits = limits
        self._clock = clock
        self._reactor = reactor
        self._owner = owner
        self._hands = Hands(store, clock, owner)
        self._copier = Copier(store, archive, kept, pool, self._hands, limits, clock, owner)

    async def prepare(self, item: Item, cart: Cart) -> Outcome:
        """Find out what is here already, and let helpers begin."""
        first, unbound = 0, list[CartFile]()
        look = partial(tables.window, number=cart.id, count=WINDOW)
        while files := await self._store.read("files to stage", partial(look, first=first)):
            if unbound:
                await self._store.run("bind files", partial(self._bind, item, cart, unbound))
            unbound = [each for each in files if each.status == WAITING and each.holding is None]
            first = files[-1].number + 1
        return Next(FETCH, partial(self._call_helpers, cart, unbound))

    def _bind(self, item: Item, cart: Cart, files: Sequence[CartFile], connection: Connection) -> None:
        ledger.hold(connection, item, self._owner)
        fetch_tables.bind(connection, cart.id, files)

    def _call_helpers(self, cart: Cart, files: Sequence[CartFile], connection: Connection) -> None:
        fetch_tables.bind(connection, cart.id, files)
        for subject in subjects(cart.id, min(self._limits.concurrent, cart.files))[1:]:
            ledger.enqueue(connection, FETCH, subject, cart.submitter)

    def begin(self, connection: Connection, items: Sequence[Item]) -> Mapping[str, Cart | None]:
        """Read the carts that helpers work at."""
        return {item.subject: tables.find(connection, item.subject[:36]) for item in items}

    async def work(self, item: Item, finish: Callable[[Item, Cart], Awaitable[Outcome]]) -> Outcome:
        """Work for a moment at what is due of a cart; the first helper ends it."""
        cart: Cart = item.record
        main = item.subject == cart.id
        if cart.status.settled or (cart.status is Status.BUNDLING and not main):
            return Done()
        until = self._clock.now() + SLICE
        worked, breath = True, BREATH
        while True:
            found = await self._store.read("what a cart waits for", partial(fetch_tables.waiting, number=cart.id))
            if not found:
                return await finish(item, cart) if main else Done()
            if worked and self._clock.now() >= until:
                return Next(FETCH, partial(self._tell, cart, found, None))
            worked = await self._do_some(item, cart, found, until)
            if worked:
                breath = BREATH
                continue
            if not self._others_work(found) or self._clock.now() >= until:
                return self._later(cart, found)
            await sleep(breath, self._reactor)
            breath = min(2 * breath, LONGEST_BREATH)

    def _others_work(self, found: Mapping[str, Group]) -> bool:
        """Whether something is due that was not to be had: somebody else sees to it."""
        return any(state in (NEW, RESERVED) and each.due <= self._clock.now() for state, each in found.items())

    def _later(self, cart: Cart, found: Mapping[str, Group]) -> Outcome:
        due = [each.due for state, each in found.items() if state in (NEW, RESERVED)]
        pause = max(FIRST_PAUSE, min(due) - self._clock.now()) if due else NO_ROOM
        pause = min(pause, LONGEST_PAUSE)
        return Retry(pause, partial(self._tell, cart, found, pause))

    def _tell(self, cart: Cart, found: Mapping[str, Group], pause: int | None, connection: Connection) -> None:
        """Let the record say what the cart waits for."""
        kept = tables.find(connection, cart.id, lock=True)
        if kept is None or kept.status.settled:
            return
        now, ahead = self._clock.wall(), self._clock.now() - self._clock.wall()
        next_at = None if pause is None else now + pause
        before = waits.read(kept.waiting) or waits.Wait(waits.ARCHIVE, kept.time_staging or now)
        wait = waits.wait_of(found, before, now, next_at, lambda time: time - ahead)
        if wait.written() != kept.waiting:
            tables.change(connection, kept, now, waiting=wait.written(), error=wait.reason)

    async def _do_some(self, item: Item, cart: Cart, found: dict[str, Group], until: int) -> bool:
        """Go on with files of one state; whether there was anything to be done."""
        if HELD in found:
            return await self._adopt(item, cart, until)
        if NEW in found:
            return await self._see_to(item, cart, NEW, found[NEW], until)
        if KNOWN in found and not await self._reserve(cart) and RESERVED not in found:
            return False
        group = found.get(RESERVED) or found[KNOWN]
        return await self._see_to(item, cart, RESERVED, group, until)

    async def _see_to(self, item: Item, cart: Cart, state: str, group: Group, until: int) -> bool:
        """Take files that are due, some at once, until there are none, or it is time.

        What came of some is written down while the archive is asked for the next.
        """
        do = self._copier.ask if state == NEW else self._copier.fetch
        share, taken, first = self._share(group), 0, 0
        writing: Deferred[None] | None = None
        try:
            while taken < group.count and (not taken or self._clock.now() < until):
                batch = Batch(item, cart, until)
                follow = await self._begin_batch(batch, state, share, first, do)
                if follow is None:
                    break
                taken, first = taken + len(batch.jobs), batch.jobs[-1].position + 1
                before, writing = writing, start(self._end_batch(batch, follow))
                if before is not None:
                    await outlasting(before)
        finally:
            if writing is not None:
                await outlasting(writing)
        return taken > 0

    async def _begin_batch(
        self,
        batch: Batch,
        state: str,
        share: int,
        first: int,
        do: Callable[[Batch], Awaitable[Callable[[], Awaitable[None]]]],
    ) -> Callable[[], Awaitable[None]] | None:
        """Take some files and ask the archive for them; what is to be done then, None if there are none."""
        try:
            await self._hands.fill(batch, state, share, first)
            return await do(batch) if batch.jobs else None
        except BaseException:
            await self._hands.empty(batch)
            raise

    async def _end_batch(self, batch: Batch, follow: Callable[[], Awaitable[None]]) -> None:
        try:
            await follow()
        finally:
            await self._hands.empty(batch)

    def _share(self, group: Group) -> int:
        """How many files a helper takes at once: so many that the others have their part."""
        return min(AT_ONCE, -(-group.count // self._limits.concurrent))

    async def _reserve(self, cart: Cart) -> bool:
        if await self._room.take(cart):
            return True
        wait, now = waits.read(cart.waiting), self._clock.wall()
        if wait is not None and wait.what == waits.ROOM and now - wait.since > self._limits.staging_timeout:
            # Two carts that each wait for what the other one holds would do so for ever.
            waited = format_duration((now - wait.since) / 1000)
            raise FinalFault(f"No Space Available: the cart has waited {waited} for room; see [carts] space")
        return False

    async def _adopt(self, item: Item, cart: Cart, until: int) -> bool:
        """Take what is here for a cart, if it is what the cart wants."""
        first = 0
        look = partial(fetch_tables.adoptable, number=cart.id, count=ADOPTED)
        while found := await self._store.read("files that are here", partial(look, first=first)):
            adopted = await stoppable(self._pool, partial(adopt, found))
            await self._store.run("keep staged files", partial(self._keep, item, cart, adopted))
            failed = next((each for each in adopted.files if each.status == FAILED), None)
            if failed is not None and not cart.partial:
                raise CartFails(f"{failed.path}: {failed.error}")
            first = found[-1][0].number + 1
            if self._clock.now() >= until:
                break
        return True

    def _keep(self, item: Item, cart: Cart, adopted: Adopted, connection: Connection) -> None:
        ledger.hold(connection, item, self._owner)
        for kept in adopted.lost:
            log.warn("the copy of {name} has gone or was changed: it is fetched again", name=kept.name)
            cache.lose(connection, kept)
        keep_staged(connection, cart, adopted.files, self._clock.wall())


def subjects(number: str, helpers: int) -> list[str]:
    """What the helpers of a cart are called in the ledger; the first one has its id."""
    return [number, *(f"{number}.{each}" for each in range(1, helpers))]
