"""How files of a remote archive are asked for and copied: many in a row, each with its own faults.

The archive is asked for one file after the other. What came of some is made durable and written down together, while it
is asked for the next: so each file does not cost a transaction and a wait for the disk of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.archive import Facts, Faulty, cache
from datahub.archive.cache import HELD, KNOWN, NEW, Cache, Draft, Holding
from datahub.carts import fetch_tables
from datahub.carts.adopting import keep_staged, staged
from datahub.carts.fetch_tables import Job
from datahub.carts.hands import Batch, Hands
from datahub.carts.model import Cart, CartFile, mismatch
from datahub.errors import FinalFault, PassingFault, Superseded
from datahub.kit.aio import start
from datahub.kit.clock import HubClock
from datahub.kit.sizes import format_duration
from datahub.kit.threads import Pool, outlasting, taking
from datahub.store import Store
from datahub.work import ledger

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "CartFails", "Copier", "Remote", "RemoteLimits", "Standing", "one_line"]

log = Logger()

TRIES: Final = 5
"""How often what an archive sends of one file may be wrong; an archive that is away has ``retry_for``."""
FIRST_PAUSE: Final = 1_000
LONGEST_PAUSE: Final = 5 * 60_000
FRESH: Final = 30_000
"""Milliseconds for which a file that was on the archive's disk is taken to be there still."""
REMEMBERED: Final = 10_000
CALM: Final[Mapping[str, Any]] = {"failing_since": None, "error": None}
"""The columns of a file that no fault lasts of: the next one is the first."""
COPIED: Final[Mapping[str, Any]] = {"state": HELD, "owner": None, "attempts": 0, "staging_since": None, **CALM}


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


class CartFails(FinalFault):
    """A file of the cart can't be had, and so the cart."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A file as it came from the archive, in its draft."""

    job: Job
    mtime_ns: int
    digests: dict[str, str]


@dataclass(slots=True)
class Copied:
    """Drafts for some files, by number, and those of them that are complete."""

    drafts: dict[int, Draft] = field(default_factory=dict)
    copies: dict[Draft, Copy] = field(default_factory=dict)


class Copier:
    """Asks ``archive`` for what a batch of ``hands`` has, and keeps it in ``kept``."""

    def __init__(
        self,
        store: Store,
        archive: Remote,
        kept: Cache,
        pool: Pool,
        hands: Hands,
        limits: RemoteLimits,
        clock: HubClock,
        owner: str,
    ) -> None:
        self._store = store
        self._archive = archive
        self._kept = kept
        self._pool = pool
        self._hands = hands
        self._limits = limits
        self._clock = clock
        self._owner = owner
        self._on_disk: dict[int, int] = {}
        """When files were last seen on the archive's disk, by number."""

    async def ask(self, batch: Batch) -> Callable[[], Awaitable[None]]:
        """Have files made ready, and learn their sizes; gives what is to be done then, while others are asked for.

        If that is lost, they are asked for once more. Raises `CartFails`.
        """
        sizes: list[tuple[Job, Standing]] = []
        fault = await self._each(batch, partial(self._ask, sizes))
        if fault is not None:
            await self._learn(batch, sizes)
            raise fault
        return partial(self._learn, batch, sizes)

    async def fetch(self, batch: Batch) -> Callable[[], Awaitable[None]]:
        """Copy files; gives what is to be done then, while others are copied. Raises `CartFails`."""
        copied = Copied()
        begin = partial(self._kept.begin, [job.holding.id for job in batch.jobs], batch.item.label)
        try:
            drafts = await taking(self._pool, begin, self._kept.let_go)
            copied.drafts = {draft.number: draft for draft in drafts}
            fetch: Callable[[Batch, Job], Awaitable[None]] = partial(self._fetch, copied)
        except OSError as error:
            fetch = partial(_fail, error)
        try:
            fault = await self._each(batch, fetch)
        except BaseException:
            await self._let_go(copied)
            raise
        if fault is not None:
            await self._keep(batch, copied)
            raise fault
        return partial(self._keep, batch, copied)

    async def _each(self, batch: Batch, do: Callable[[Batch, Job], Awaitable[None]]) -> CartFails | None:
        """See to files until it is time; what goes wrong with one is its own, unless it ends the cart."""
        for job in batch.jobs:
            try:
                await self._one(batch, job, do(batch, job))
            except CartFails as error:
                return error
            if self._clock.now() >= batch.until:
                break
        return None

    async def _one(self, batch: Batch, job: Job, doing: Awaitable[None]) -> None:
        try:
            await doing
        except (FinalFault, PassingFault, TimeoutError, OSError) as error:
            await self._failed(batch, job, error)
        except Superseded as error:
            self._give_way(batch, job, error)

    def _give_way(self, batch: Batch, job: Job, error: Superseded) -> None:
        # Nobody wants it any more: that is not the end of the cart's other files.
        log.info("{error}", error=one_line(error))
        self._hands.let_go(batch, job.holding)

    async def _write(self, what: str, batch: Batch, job: Job, **values: Any) -> None:
        """Write down what is to become of a file that is let go of so."""
        change = partial(cache.change, known=job.holding, claimant=self._owner, owner=None, **values)
        await self._store.run(what, change)
        self._hands.let_go(batch, job.holding)

    async def _ask(self, sizes: list[tuple[Job, Standing]], _: Batch, job: Job) -> None:
        await self._archive.stage(job.holding.name)
        standing: Standing = await self._archive.look(job.holding.name)
        if standing.on_disk:
            self._remember(job.holding)
        sizes.append((job, standing))

    def _remember(self, kept: Holding) -> None:
        self._on_disk[kept.id] = self._clock.now()
        if len(self._on_disk) > REMEMBERED:
            del self._on_disk[next(iter(self._on_disk))]

    async def _learn(self, batch: Batch, sizes: Sequence[tuple[Job, Standing]]) -> None:
        if sizes:
            await self._store.run("keep sizes", partial(self._keep_sizes, sizes))
        for job, _ in sizes:
            self._hands.let_go(batch, job.holding)

    def _keep_sizes(self, sizes: Sequence[tuple[Job, Standing]], connection: Connection) -> None:
        for job, standing in sizes:
            # Its tries are counted on: else an archive that says something else each time were asked for ever.
            stands = {"state": KNOWN, "size": standing.size, "mtime_ns": standing.mtime_ns}
            # One that nobody wants any more is no fault of the others.
            with suppress(Superseded):
                cache.change(connection, job.holding, self._owner, owner=None, due=0, **stands, **CALM)

    async def _fetch(self, copied: Copied, batch: Batch, job: Job) -> None:
        kept = job.holding
        mtime_ns = kept.mtime_ns if self._is_on_disk(kept) else await self._look_again(batch, job)
        if mtime_ns is None or kept.size is None:
            return
        draft = copied.drafts[kept.id]
        kinds = sorted({"sha256", *(kind for kind, _ in job.hashes)})
        digests = await self._archive.fetch(kept.name, draft.opened, kept.size, kinds, _no_progress)
        _check_hashes(job, digests)
        copied.copies[draft] = Copy(job, mtime_ns, digests)

    def _is_on_disk(self, kept: Holding) -> bool:
        """Whether it was seen there a moment ago: what that says is believed once."""
        seen = self._on_disk.pop(kept.id, None)
        return seen is not None and self._clock.now() - seen < FRESH

    async def _look_again(self, batch: Batch, job: Job) -> int | None:
        """The time of a file that can be fetched now as room was reserved for it; None for any other."""
        kept = job.holding
        standing: Standing = await self._archive.look(kept.name)
        if not standing.on_disk:
            await self._wait_for_tape(batch, job)
        elif standing.size != kept.size or standing.mtime_ns != kept.mtime_ns:
            await self._ask_anew(batch, job)
        else:
            return standing.mtime_ns
        return None

    async def _keep(self, batch: Batch, copied: Copied) -> None:
        try:
            if copied.copies:
                await self._keep_copies(batch, copied.copies)
        finally:
            await self._let_go(copied)

    async def _let_go(self, copied: Copied) -> None:
        drafts = list(copied.drafts.values())
        await outlasting(start(self._pool.run(self._kept.let_go, drafts)))

    async def _keep_copies(self, batch: Batch, copies: Mapping[Draft, Copy]) -> None:
        times = {draft: copy.mtime_ns for draft, copy in copies.items()}
        try:
            facts = await outlasting(start(self._pool.run(self._kept.finish, times)))
        except OSError as error:
            for copy in copies.values():
                await self._failed(batch, copy.job, error)
            return
        done = list(zip(copies.values(), facts, strict=True))
        late = await self._store.run("keep staged files", partial(self._keep_files, batch, done))
        for copy in copies.values():
            self._hands.let_go(batch, copy.job.holding)
        for copy, its in late:
            await self._kept.disown(copy.job.holding.id, its.place)
        places = {copy.job.holding.id: its.place for copy, its in done if (copy, its) not in late}
        await self._pool.run(self._kept.tidy, places)

    def _keep_files(
        self, batch: Batch, done: Sequence[tuple[Copy, Facts]], connection: Connection
    ) -> list[tuple[Copy, Facts]]:
        """Write down copies, and what they are for the cart; those that nobody wants any more."""
        late: list[tuple[Copy, Facts]] = []
        files: list[CartFile] = []
        for copy, facts in done:
            digests = msgspec.json.encode(copy.digests).decode()
            try:
                cache.change(connection, copy.job.holding, self._owner, digests=digests, **cache.told(facts), **COPIED)
            except Superseded as error:
                log.info("{error}", error=one_line(error))
                late.append((copy, facts))
                continue
            files += [staged(each, facts, copy.digests) for each in copy.job.users]
        # If the cart has ended or is another's, they are here all the same.
        with suppress(Superseded):
            ledger.hold(connection, batch.item, self._owner)
            keep_staged(connection, batch.cart, files, self._clock.wall())
        return late

    async def _ask_anew(self, batch: Batch, job: Job) -> None:
        """See to a file that is not what room was reserved for."""
        attempts = job.holding.attempts + 1
        if attempts >= TRIES:
            raise Faulty("the archive says something else of it each time: another size, or another time")
        again = {"state": NEW, "size": None, "attempts": attempts, "staging_since": None}
        await self._write("a file has changed", batch, job, due=self._clock.now() + _pause_after(attempts), **again)

    async def _wait_for_tape(self, batch: Batch, job: Job) -> None:
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
        await self._write("wait for tape", batch, job, due=now + pause, staging_since=began, **CALM)

    async def _failed(self, batch: Batch, job: Job, error: Exception) -> None:
        """Put a file off, or tell the cart that it can't be had.

        What came and was wrong may be so `TRIES` times; an archive that is away may be so for ``retry_for``. Raises
        `CartFails`.
        """
        kept, now, reason = job.holding, self._clock.now(), one_line(error)
        since, wrong = kept.failing_since or now, isinstance(error, Faulty)
        attempts, lasted = kept.attempts + wrong, now - since
        final = isinstance(error, FinalFault) or attempts >= TRIES
        if not final and lasted > self._limits.retry_for:
            final, reason = True, f"given up after {format_duration(lasted / 1000)}: {reason}"
        try:
            if final:
                await self._store.run("give a file up", partial(self._give_up, batch.cart, job, reason))
                self._hands.let_go(batch, kept)
            else:
                pause = _pause_after(attempts) if wrong else min(LONGEST_PAUSE, max(FIRST_PAUSE, lasted))
                log.info("{name} is tried again: {reason}", name=kept.name, reason=reason)
                later = {"due": now + pause, "attempts": attempts, "failing_since": since, "error": reason}
                await self._write("try a file again", batch, job, **later)
        except Superseded as superseded:
            self._give_way(batch, job, superseded)
            return
        if final and not batch.cart.partial:
            raise CartFails(f"{job.users[0].path}: {reason}")

    def _give_up(self, cart: Cart, job: Job, reason: str, connection: Connection) -> None:
        afresh: dict[str, Any] = {"owner": None, "due": 0, "attempts": 0, "staging_since": None, **CALM}
        cache.change(connection, job.holding, self._owner, **afresh)
        fetch_tables.fail_users(connection, cart.id, job.holding.id, reason)


async def _fail(error: Exception, *_: object) -> None:
    raise error


def _check_hashes(job: Job, digests: Mapping[str, str]) -> None:
    for kind, value in job.hashes:
        if digests[kind] != value:
            raise Faulty(mismatch(kind, value, digests[kind]))


def one_line(error: Exception) -> str:
    """What went wrong, for a record and a header."""
    return " ".join(str(error).split())[:1000]


def _pause_after(attempts: int) -> int:
    return int(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempts - 1, 20)))


def _no_progress(_: int) -> None: ...
