"""How carts are filled from a remote archive: every file is asked for, room is reserved, then they are fetched.

Several helpers work at a cart, each with a slot of the whole cluster; each works for a moment and then queues again, so
that all carts have their turns. What they know is in the rows of what is kept, which any of them can go on with.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import Connection
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.archive import Faulty, cache
from datahub.archive.cache import HELD, KNOWN, NEW, RESERVED, Cache, Holding
from datahub.carts import fetch_tables, tables, waits
from datahub.carts.adopting import Adopted, adopt
from datahub.carts.downloads import Downloads
from datahub.carts.fetch_tables import Group, Job
from datahub.carts.model import FAILED, STAGED, Cart, CartFile, Status
from datahub.carts.room import Room
from datahub.errors import FinalFault, PassingFault, Superseded
from datahub.kit.aio import sleep, start
from datahub.kit.clock import HubClock
from datahub.kit.sizes import format_duration
from datahub.kit.threads import Pool, outlasting, stoppable, taking
from datahub.store import Store
from datahub.work import Done, Item, Next, Outcome, Retry, ledger

__all__ = ["FETCH", "Fetcher", "Remote", "RemoteLimits", "Standing", "one_line", "subjects"]

log = Logger()

FETCH: Final = "carts.fetch"
WINDOW: Final = 500
AT_ONCE: Final = 20
"""Files that one helper takes, one transaction for all of them."""
SMALL: Final = 16 * 1024 * 1024
"""The bytes that it takes to be fetched at once, if they are more than one file: other helpers are not to lack work."""
SLICE: Final = 2_000
"""Milliseconds that a helper works before it queues again."""
TRIES: Final = 5
"""How often what an archive sends of one file may be wrong; an archive that is away has ``retry_for``."""
FIRST_PAUSE: Final = 1_000
LONGEST_PAUSE: Final = 5 * 60_000
NO_ROOM: Final = 5_000
BREATH: Final = 0.02
LONGEST_BREATH: Final = 0.3
"""Seconds between two looks whether others are done: short first, as many files are small."""
ADOPTED: Final = 200
CALM: Final[Mapping[str, Any]] = {"failing_since": None, "error": None}
"""The columns of a file that no fault lasts of: the next one is the first."""


class Standing(Protocol):
    """How a file stands in the archive."""

    size: int
    mtime_ns: int
    on_disk: bool


class Remote(Protocol):
    """An archive that is asked over a network; all may raise `FinalFault` and `PassingFault`."""

    async def stage(self, name: str) -> None:
        """Ask for a file to be made ready."""

    async def look(self, name: str) -> Any:
        """Say how a file stands: a `Standing`."""

    async def fetch(
        self, name: str, target: int, size: int, algorithms: Sequence[str], progress: Callable[[int], None]
    ) -> dict[str, str]:
        """Write a file to the open ``target``; its digests."""
        ...


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """Fetches at once in the cluster; how long (ms) faults may last, a tape may take, a cart that was used is safe."""

    concurrent: int
    retry_for: int
    staging_timeout: int
    evict_after: int


Learnt = Mapping[str, Any] | None
"""What is to be written of a file that was asked for; nothing, if all is written that is to be."""


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
        self._archive = archive
        self._kept = kept
        self._pool = pool
        self._room = Room(store, kept, downloads, clock, limits.evict_after)
        self._limits = limits
        self._clock = clock
        self._reactor = reactor
        self._owner = owner
        self._claiming = DeferredLock()
        self._in_hand: set[int] = set()

    async def prepare(self, item: Item, cart: Cart) -> Outcome:
        """Find out what is here already, and let helpers begin."""
        first = 0
        look = partial(tables.window, number=cart.id, count=WINDOW)
        while files := await self._store.read("files to stage", partial(look, first=first)):
            unbound = [each for each in files if each.status == "waiting" and each.holding is None]
            if unbound:
                await self._store.run("bind files", partial(self._bind, item, cart, unbound))
            first = files[-1].number + 1
        return Next(FETCH, partial(self._call_helpers, cart))

    def _bind(self, item: Item, cart: Cart, files: Sequence[CartFile], connection: Connection) -> None:
        ledger.hold(connection, item, self._owner)
        fetch_tables.bind(connection, cart.id, files)

    def _call_helpers(self, cart: Cart, connection: Connection) -> None:
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

    async def _do_some(self, item: Item, cart: Cart, found: Mapping[str, Group], until: int) -> bool:
        if HELD in found:
            return await self._adopt(item, cart)
        if NEW in found:
            return await self._each(item, cart, NEW, self._share(found[NEW]), self._ask, until)
        if KNOWN in found:
            return await self._reserve(item, cart)
        share = self._share(found[RESERVED]) if RESERVED in found else 1
        return await self._each(item, cart, RESERVED, share, self._fetch, until)

    def _share(self, group: Group) -> int:
        """How many files a helper takes: so many that the others have their part."""
        return min(AT_ONCE, -(-group.count // self._limits.concurrent))

    async def _each(
        self,
        item: Item,
        cart: Cart,
        state: str,
        count: int,
        do: Callable[[Item, Cart, Job], Awaitable[Learnt]],
        until: int,
    ) -> bool:
        """Take files that are due, and see to each until it is time; what goes wrong with one is its own."""
        left: list[int] = []
        learnt: list[tuple[Holding, Mapping[str, Any]]] = []
        try:
            jobs = await outlasting(start(self._claim(cart, state, count, left)))
            for job in jobs:
                news = await self._one(item, cart, job, do)
                if news is not None:
                    learnt.append((job.holding, news))
                else:
                    self._let_go(left, job.holding)
                if self._clock.now() >= until:
                    break
            if learnt:
                await self._store.run("keep sizes", partial(self._keep_sizes, learnt))
            for kept, _ in learnt:
                self._let_go(left, kept)
        finally:
            if left:
                await outlasting(start(self._release(left)))
        return bool(jobs)

    def _let_go(self, left: list[int], kept: Holding) -> None:
        left.remove(kept.id)
        self._in_hand.discard(kept.id)

    def _keep_sizes(self, learnt: Sequence[tuple[Holding, Mapping[str, Any]]], connection: Connection) -> None:
        for kept, news in learnt:
            # One that nobody wants any more is no fault of the others.
            with suppress(Superseded):
                cache.change(connection, kept, self._owner, **news)

    async def _claim(self, cart: Cart, state: str, count: int, left: list[int]) -> list[Job]:
        """Take files, one helper after the other: each has to know what the others have in hand."""
        await self._claiming.acquire()
        try:
            taking_up = partial(
                fetch_tables.claim,
                number=cart.id,
                state=state,
                now=self._clock.now(),
                owner=self._owner,
                count=count,
                most=SMALL,
                in_hand=frozenset(self._in_hand),
            )
            jobs = await self._store.run("claim files", taking_up)
            left += [job.holding.id for job in jobs]
            self._in_hand.update(left)
        finally:
            self._claiming.release()
        return jobs

    async def _release(self, numbers: Sequence[int]) -> None:
        try:
            await self._store.run("release files", partial(fetch_tables.release, numbers=numbers, owner=self._owner))
        finally:
            # If the row could not be written, it says that they are ours: the next claim takes them for free.
            self._in_hand.difference_update(numbers)

    async def _one(
        self, item: Item, cart: Cart, job: Job, do: Callable[[Item, Cart, Job], Awaitable[Learnt]]
    ) -> Learnt:
        try:
            try:
                return await do(item, cart, job)
            except (FinalFault, PassingFault, TimeoutError, OSError) as error:
                await self._failed(cart, job, error)
        except Superseded as error:
            # Nobody wants it any more: that is not the end of the cart's other files.
            log.info("{error}", error=one_line(error))
        return None

    def _change(self, kept: Holding, **values: Any) -> Callable[[Connection], None]:
        return partial(cache.change, known=kept, claimant=self._owner, **values)

    async def _ask(self, item: Item, cart: Cart, job: Job) -> Learnt:
        """Have a file made ready, and learn its size; if that is lost, it is asked for once more."""
        await self._archive.stage(job.holding.name)
        standing = await self._archive.look(job.holding.name)
        # Its tries are counted on: else an archive that says something else each time were asked for ever.
        stands = {"state": KNOWN, "size": standing.size, "mtime_ns": standing.mtime_ns}
        return {**stands, "owner": None, "due": 0, **CALM}

    async def _reserve(self, item: Item, cart: Cart) -> bool:
        if await self._room.take(cart):
            return True
        wait, now = waits.read(cart.waiting), self._clock.wall()
        if wait is not None and wait.what == waits.ROOM and now - wait.since > self._limits.staging_timeout:
            # Two carts that each wait for what the other one holds would do so for ever.
            waited = format_duration((now - wait.since) / 1000)
            raise FinalFault(f"No Space Available: the cart has waited {waited} for room; see [carts] space")
        return False

    async def _fetch(self, item: Item, cart: Cart, job: Job) -> Learnt:
        kept = job.holding
        standing = await self._archive.look(kept.name)
        if not standing.on_disk:
            await self._wait_for_tape(cart, job)
            return None
        if standing.size != kept.size or standing.mtime_ns != kept.mtime_ns:
            await self._ask_anew(kept)
            return None
        begin = partial(self._kept.begin, kept.id, item.label)
        opened, path = await taking(self._pool, begin, lambda new: self._kept.discard(*new))
        try:
            kinds = sorted({"sha256", *(kind for kind, _ in job.hashes)})
            digests = await self._archive.fetch(kept.name, opened, standing.size, kinds, _no_progress)
            _check_hashes(job, digests)
            naming = self._pool.run(self._kept.finish, opened, path, standing.mtime_ns)
            facts = await outlasting(start(naming))
        except BaseException:
            await self._pool.run(self._kept.discard, opened, path)
            raise
        await self._pool.run(_close, opened)
        told: dict[str, Any] = {**cache.told(facts), "digests": msgspec.json.encode(digests).decode()}
        done: dict[str, Any] = {"state": HELD, "owner": None, "attempts": 0, "staging_since": None, **CALM}
        try:
            await self._store.run("keep a file", self._change(kept, **told, **done))
        except Superseded:
            await self._kept.disown(kept.id, facts.place)
            raise
        await self._pool.run(self._kept.tidy, kept.id, facts.place)
        return None

    async def _ask_anew(self, kept: Holding) -> None:
        """See to a file that is not what room was reserved for."""
        attempts = kept.attempts + 1
        if attempts >= TRIES:
            raise Faulty("the archive says something else of it each time: another size, or another time")
        again: dict[str, Any] = {"state": NEW, "size": None, "owner": None, "attempts": attempts, "staging_since": None}
        again["due"] = self._clock.now() + _pause_after(attempts)
        await self._store.run("a file has changed", self._change(kept, **again))

    async def _wait_for_tape(self, cart: Cart, job: Job) -> None:
        now, began = self._clock.now(), job.holding.staging_since
        if began is None:
            # Asked for again: it may have gone back to its tape while there was no room here.
            await self._archive.stage(job.holding.name)
            began = now
        if now - began > self._limits.staging_timeout:
            raise FinalFault(
                f"the archive has not staged it within {format_duration(self._limits.staging_timeout / 1000)}"
            )
        pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, (now - began) // 2))
        later: dict[str, Any] = {"owner": None, "due": now + pause, "staging_since": began, **CALM}
        await self._store.run("wait for tape", self._change(job.holding, **later))

    async def _failed(self, cart: Cart, job: Job, error: Exception) -> None:
        """Put a file off, or tell the cart that it can't be had.

        What came and was wrong may be so `TRIES` times; an archive that is away may be so for ``retry_for``.
        """
        kept, now, reason = job.holding, self._clock.now(), one_line(error)
        since, wrong = kept.failing_since or now, isinstance(error, Faulty)
        attempts, lasted = kept.attempts + wrong, now - since
        final = isinstance(error, FinalFault) or attempts >= TRIES
        if not final and lasted > self._limits.retry_for:
            final, reason = True, f"given up after {format_duration(lasted / 1000)}: {reason}"
        if not final:
            pause = _pause_after(attempts) if wrong else min(LONGEST_PAUSE, max(FIRST_PAUSE, lasted))
            later = {"owner": None, "due": now + pause, "attempts": attempts, "failing_since": since, "error": reason}
            log.info("{name} is tried again: {reason}", name=kept.name, reason=reason)
            await self._store.run("try a file again", self._change(kept, **later))
            return
        await self._store.run("give a file up", partial(self._give_up, cart, job, reason))
        if not cart.partial:
            raise CartFails(f"{job.paths[0]}: {reason}")

    def _give_up(self, cart: Cart, job: Job, reason: str, connection: Connection) -> None:
        afresh: dict[str, Any] = {"owner": None, "due": 0, "attempts": 0, "staging_since": None, **CALM}
        cache.change(connection, job.holding, self._owner, **afresh)
        fetch_tables.fail_users(connection, cart.id, job.holding.id, reason)

    async def _adopt(self, item: Item, cart: Cart) -> bool:
        """Take what is here for a cart, if it is what the cart wants."""
        found = await self._store.read(
            "files that are here", partial(fetch_tables.adoptable, number=cart.id, count=ADOPTED)
        )
        if not found:
            return True
        adopted = await stoppable(self._pool, partial(adopt, found))
        await self._store.run("keep staged files", partial(self._keep, item, cart, adopted))
        failed = next((each for each in adopted.files if each.status == FAILED), None)
        if failed is not None and not cart.partial:
            raise CartFails(f"{failed.path}: {failed.error}")
        return True

    def _keep(self, item: Item, cart: Cart, adopted: Adopted, connection: Connection) -> None:
        ledger.hold(connection, item, self._owner)
        for kept in adopted.lost:
            log.warn("the copy of {name} has gone or was changed: it is fetched again", name=kept.name)
            cache.lose(connection, kept)
        now = tables.find(connection, cart.id, lock=True)
        if now is None or now.status.settled:
            raise Superseded(f"cart {cart.uid} is not being staged any more")
        # Another helper may have taken the same ones up.
        waiting = fetch_tables.which_wait(connection, cart.id, [each.number for each in adopted.files])
        taken = [each for each in adopted.files if each.number in waiting]
        if not taken:
            return
        tables.keep_staged(connection, cart.id, taken)
        sizes = [each.size or 0 for each in taken if each.status == STAGED]
        tables.count_staged(connection, now, len(sizes), sum(sizes))
        if sizes and now.failing_since is not None:
            # It gets on: what fails from now on is told of anew.
            tables.change(connection, now, self._clock.wall(), **tables.CALM)


def _check_hashes(job: Job, digests: Mapping[str, str]) -> None:
    for kind, value in job.hashes:
        if digests[kind] != value:
            raise Faulty(f"File hash does not match provided hash: its {kind} is {digests[kind]}")


def subjects(number: str, helpers: int) -> list[str]:
    """What the helpers of a cart are called in the ledger; the first one has its id."""
    return [number, *(f"{number}.{each}" for each in range(1, helpers))]


class CartFails(FinalFault):
    """A file of the cart can't be had, and so the cart."""


def one_line(error: Exception) -> str:
    """What went wrong, for a record and a header."""
    return " ".join(str(error).split())[:1000]


def _pause_after(attempts: int) -> int:
    return int(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempts - 1, 20)))


def _no_progress(_: int) -> None: ...


def _close(opened: int) -> None:
    os.close(opened)
