"""The steps of a cart: its files are taken up where they lie, one by one checked, then the cart is ready."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import uniform
from threading import Event
from typing import Any, Final, Protocol, runtime_checkable

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.archive import Facts, Faulty
from datahub.carts import line, tables
from datahub.carts.copying import one_line
from datahub.carts.fetching import FETCH, Fetcher
from datahub.carts.model import FAILED, STAGED, WAITING, Cart, CartFile, Status, mismatch
from datahub.carts.reading import open_file, require_unchanged
from datahub.carts.waits import RETRY, Wait, read
from datahub.errors import DatahubError, FinalFault, InvalidRequest, NoSpace, PassingFault, Unavailable
from datahub.files import check, digest_of, held
from datahub.kit.clock import HubClock, rfc3339
from datahub.kit.sizes import format_duration
from datahub.kit.threads import Pool, stoppable
from datahub.store import Store
from datahub.web.sending import SourceChanged
from datahub.work import Done, Fail, Item, Next, Outcome, Record, Retry, ledger
from datahub.work.lane import Step

__all__ = ["LANES", "STAGE", "Limits", "Pins", "Pipeline"]

log = Logger()

STAGE: Final = "carts.stage"
DIGEST: Final = "carts.digest"
LANES: Final = (STAGE, FETCH, DIGEST)
DIGESTING: Final = 1
"""Carts whose digests are computed at once here: nobody is to feel it."""
WINDOW: Final = 500
TOLD: Final = 400
"""So many missing files are named in the notice of a partial cart; it also ends before a column of 64 KB is full."""
ROOM: Final = 50_000
TRIES: Final = 5
"""How often the disk of a `file:` archive may fail at one file."""
FIRST_PAUSE: Final = 1_000
LONGEST_PAUSE: Final = 15 * 60_000


@runtime_checkable
class Pins(Protocol):
    """An archive whose files lie on this host."""

    def take_up(self, name: str) -> Facts:
        """Say which file ``name`` is now; blocking. Raises `InvalidRequest`, `FinalFault`, `PassingFault`."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How many carts at once here, how many fetches, and how long (s) what may pass is tried again."""

    staging: int
    fetching: int
    retry_for: float


class Pipeline:
    """Takes carts to their end; ``owner`` is this daemon's name in the ledger."""

    def __init__(
        self, store: Store, source: Pins | Fetcher, pool: Pool, limits: Limits, clock: HubClock, owner: str
    ) -> None:
        self._store = store
        self._source = source
        self._pool = pool
        self._limits = limits
        self._clock = clock
        self._owner = owner

    def steps(self) -> list[Step]:
        """The lanes of carts, in the order a cart goes through them."""
        return [
            Step(STAGE, self._limits.staging, self._begin, self.stage, self.fault),
            Step(FETCH, self._limits.fetching, self._look_for_helpers, self.fetch, self.fault),
            Step(DIGEST, DIGESTING, self._look, self.digest, self.digest_fault),
        ]

    def _look_for_helpers(self, connection: Connection, items: Sequence[Item]) -> Mapping[str, Cart | None]:
        return {} if not isinstance(self._source, Fetcher) else self._source.begin(connection, items)

    def _look(self, connection: Connection, items: Sequence[Item]) -> dict[str, Cart | None]:
        return {item.subject: tables.find(connection, item.subject) for item in items}

    def _begin(self, connection: Connection, items: Sequence[Item]) -> dict[str, Cart]:
        return tables.begin(connection, [item.subject for item in items], self._clock.wall())

    async def stage(self, item: Item) -> Outcome:
        """Take up all files, in windows, each of them committed: what a crash leaves is gone on with."""
        cart: Cart = item.record
        if cart.status.settled:
            return Done()
        if isinstance(self._source, Fetcher):
            return await self._source.prepare(item, cart)
        first = 0
        unread: list[CartFile] = []
        while files := await self._window(cart, first):
            unread += await self._take_up(item, cart, [each for each in files if each.status != STAGED])
            first = files[-1].number + 1
        return self._read_again(item, cart, unread) if unread else await self._finish(item, cart)

    async def fetch(self, item: Item) -> Outcome:
        """Fetch what lies elsewhere, for a moment: see `datahub.carts.fetching`."""
        if not isinstance(self._source, Fetcher):
            raise PassingFault("[archive] url was that of a remote archive when this cart was begun")
        return await self._source.work(item, self._finish)

    async def _window(self, cart: Cart, first: int) -> list[CartFile]:
        look = partial(tables.window, number=cart.id, first=first, count=WINDOW)
        return await self._store.read("files to stage", look)

    async def _take_up(self, item: Item, cart: Cart, files: Sequence[CartFile]) -> list[CartFile]:
        """Take files up; those that could not be read now, and are to be tried again."""
        if not files:
            return []
        taken = await stoppable(self._pool, partial(self._each_taken_up, files))
        failed = next((each for each in taken if each.status == FAILED), None)
        await self._store.run("keep staged files", partial(self._keep, item, cart, taken))
        if failed is not None and not cart.partial:
            raise FinalFault(f"{failed.path}: {failed.error}")
        return [each for each in taken if each.status == WAITING]

    def _each_taken_up(self, files: Sequence[CartFile], stop: Event) -> list[CartFile]:
        taken = []
        for each in files:
            check(stop)
            try:
                taken.append(self._taken_up(each, stop))
            except (FinalFault, InvalidRequest) as error:
                taken.append(replace(each, status=FAILED, error=one_line(error)))
            except Faulty as error:
                attempts = each.attempts + 1
                status = WAITING if attempts < TRIES else FAILED
                taken.append(replace(each, status=status, error=one_line(error), attempts=attempts))
        return taken

    def _read_again(self, item: Item, cart: Cart, unread: Sequence[CartFile]) -> Outcome:
        """Put the cart off for files that have tries left: they are no fault of the cart's, whose clock stands."""
        pause, now = _pause_after(min(each.attempts for each in unread)), self._clock.wall()
        reason = f"{unread[0].path}: {unread[0].error}"
        log.info(
            "{count} files of cart {uid} are tried again: {reason}", count=len(unread), uid=cart.uid, reason=reason
        )
        before = read(cart.waiting)
        since = before.since if before is not None and before.what == RETRY else now
        return Retry(pause, partial(self._put_off, item, cart.id, Wait(RETRY, since, now + pause, reason)))

    def _taken_up(self, file: CartFile, stop: Event) -> CartFile:
        if isinstance(self._source, Fetcher):
            raise PassingFault("[archive] url is that of a remote archive")
        facts = self._source.take_up(file.name)
        found = replace(
            file, status=STAGED, size=facts.size, mtime_ns=facts.mtime_ns, facts=facts, error=None, attempts=0
        )
        if file.hashtype is None:
            return found
        digest = _digest(file, file.hashtype, facts, stop)
        if digest != file.hashsum:
            raise FinalFault(mismatch(file.hashtype, file.hashsum, digest))
        return replace(found, sha256=digest if file.hashtype == "sha256" else None)

    def _keep(self, item: Item, cart: Cart, taken: Sequence[CartFile], connection: Connection) -> None:
        ledger.hold(connection, item, self._owner)
        tables.keep_staged(connection, cart.id, taken)
        sizes = [each.size or 0 for each in taken if each.status == STAGED]
        tables.count_staged(connection, cart, len(sizes), sum(sizes))
        if sizes and cart.failing_since is not None:
            tables.change(connection, cart, self._clock.wall(), **tables.CALM)

    async def _finish(self, item: Item, cart: Cart) -> Outcome:
        """Make what stands for the content: it follows from each file's name, size, time and identity."""
        if cart.status is not Status.BUNDLING:
            await self._store.run("begin to bundle", partial(self._begin_bundling, item, cart))
            cart = replace(cart, status=Status.BUNDLING)
        told, size, count, first = hashlib.sha256(), 0, 0, 0
        names: set[str] = set()
        while files := await self._window(cart, first):
            staged = [each for each in files if each.status == STAGED]
            await self._pool.run(_tell_all, told, staged)
            size += sum(each.size or 0 for each in staged)
            count += len(staged)
            # Those that could not be had too: what is at a path that was asked for must be what was asked for.
            names |= {each.path.partition("/")[0] for each in files if each.path.startswith("MISSING")}
            first = files[-1].number + 1
        now = self._clock.wall()
        changes: dict[str, Any] = {"staged_files": count, "staged_size": size, "size": size}
        missing = None
        if count < cart.files:
            failed = await self._store.read("missing files", partial(tables.failures, number=cart.id, limit=TOLD))
            first_fault = f"{failed[0].path}: {failed[0].error}"
            if not count:
                raise FinalFault(f"none of its {cart.files} files could be staged; {first_fault}")
            if not cart.partial:
                # Whoever found that out may have died before he could end the cart.
                raise FinalFault(first_fault)
            missing = _notice(failed, cart.files - count, names)
            told.update(missing.encode())
        return Next(
            DIGEST,
            partial(
                _make_ready,
                cart=cart,
                now=now,
                status=Status.READY,
                identity=told.hexdigest(),
                missing=missing,
                error=None,
                failing_since=None,
                attempts=item.attempt,
                time_ready=now,
                time_used=now,
                **changes,
            ),
        )

    def _begin_bundling(self, item: Item, cart: Cart, connection: Connection) -> None:
        ledger.hold(connection, item, self._owner)
        tables.change(connection, cart, self._clock.wall(), status=Status.BUNDLING)

    async def digest(self, item: Item) -> Outcome:
        """Compute what digests are not known yet, once the cart is ready; a file that has changed has none."""
        cart: Cart = item.record
        first = 0
        while files := await self._window(cart, first):
            await self._digest_some(item, cart, [each for each in files if each.status == STAGED and not each.sha256])
            first = files[-1].number + 1
        return Done()

    async def _digest_some(self, item: Item, cart: Cart, files: Sequence[CartFile]) -> None:
        if files:
            digests = await stoppable(self._pool, partial(_digests_of, files))
            await self._store.run("keep digests", partial(self._keep_digests, item, cart, digests))

    def _keep_digests(
        self, item: Item, cart: Cart, digests: Mapping[int, tuple[str | None, str | None]], connection: Connection
    ) -> None:
        ledger.hold(connection, item, self._owner)
        tables.keep_digests(connection, cart.id, digests)

    def digest_fault(self, item: Item, error: Exception) -> Outcome:
        """Try again later: nothing but the manifest waits for it."""
        log.warn("digests of cart {uid}: {error}", uid=item.record.uid, error=one_line(error))
        return Retry(_pause(item))

    def fault(self, item: Item, error: Exception) -> Outcome:
        """Try again what may pass, until it has failed for ``retry_for``; end what will not, and say why."""
        cart: Cart = item.record
        if isinstance(error, FinalFault):
            return Fail(self._failed(item, cart, one_line(error)))
        known = isinstance(error, PassingFault | TimeoutError | Unavailable | NoSpace)
        if not known:
            log.failure("staging cart {uid} met an internal fault", uid=cart.uid)
        reason = one_line(error) if known else f"internal fault ({type(error).__name__}), see the log"
        now = self._clock.wall()
        since = cart.failing_since or now
        if now - since > self._limits.retry_for * 1000:
            told = f"given up after {item.attempt} tries since {rfc3339(since)}: {reason}"
            return Fail(self._failed(item, cart, told))
        pause = _pause(item)
        log.info(
            "cart {uid} is tried again in {pause}: {reason}",
            uid=cart.uid,
            pause=format_duration(pause / 1000),
            reason=reason,
        )
        wait = Wait(RETRY, since, now + pause, reason)
        return Retry(pause, partial(self._put_off, item, cart.id, wait, failing_since=since))

    def _put_off(self, item: Item, number: str, wait: Wait, connection: Connection, **more: Any) -> None:
        cart = tables.find(connection, number, lock=True)
        if cart is not None and not cart.status.settled:
            tables.change(
                connection,
                cart,
                self._clock.wall(),
                what="retry",
                error=wait.reason,
                waiting=wait.written(),
                attempts=item.attempt,
                **more,
            )

    def _failed(self, item: Item, cart: Cart, reason: str) -> Record:
        log.warn("cart {uid} ends with an error: {reason}", uid=cart.uid, reason=reason)
        return partial(self._write_failure, item, cart.id, reason)

    def _write_failure(self, item: Item, number: str, reason: str, connection: Connection) -> None:
        # Read anew: it may have begun to be bundled since it was claimed.
        cart = tables.find(connection, number, lock=True)
        now = self._clock.wall()
        if cart is not None and not cart.status.settled:
            tables.change(
                connection,
                cart,
                now,
                status=Status.ERROR,
                error=reason,
                time_error=now,
                time_used=now,
                attempts=item.attempt,
                failing_since=None,
            )
            line.leave(connection, cart.id)


def _make_ready(connection: Connection, cart: Cart, now: int, **changes: Any) -> None:
    tables.change(connection, cart, now, **changes)
    line.leave(connection, cart.id)


def _pause(item: Item) -> int:
    return _pause_after(item.attempt)


def _pause_after(attempts: int) -> int:
    return int(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempts - 1, 20)) * uniform(0.8, 1.2))


def _digests_of(files: Sequence[CartFile], stop: Event) -> dict[int, tuple[str | None, str | None]]:
    """SHA-256, or why there is none, by position; blocking."""
    found: dict[int, tuple[str | None, str | None]] = {}
    for each in files:
        check(stop)
        try:
            with held(open_file(each.path, _facts(each))) as opened:
                digest = digest_of(opened, "sha256", stop)
                require_unchanged(opened, each.path, _facts(each))
            found[each.number] = digest, None
        except Unavailable as error:
            raise PassingFault(str(error)) from error
        except (DatahubError, OSError) as error:
            found[each.number] = None, one_line(error)
    return found


def _facts(file: CartFile) -> Facts:
    if file.facts is None:
        raise SourceChanged(f"{file.path!r} is not here any more")
    return file.facts


def _digest(file: CartFile, algorithm: str, facts: Facts, stop: Event) -> str:
    """Read a file that was just taken up; blocking. Raises `PassingFault`, and `Faulty` if its disk fails."""
    try:
        with held(open_file(file.path, facts)) as opened:
            return digest_of(opened, algorithm, stop)
    except OSError as error:
        kind = Faulty if error.errno == errno.EIO else PassingFault
        raise kind(f"it can't be read to its end ({error.strerror})") from error
    except DatahubError as error:
        raise PassingFault(str(error)) from error


def _tell_all(told: Any, files: Sequence[CartFile]) -> None:
    """Add files to a digest under way: what the tar is made of, and which very file each is."""
    for each in files:
        facts = each.facts
        one = None if facts is None else (facts.inode, facts.ctime_ns)
        which = one if each.holding is None else each.sha256
        told.update(f"{each.path}\0{each.size}\0{each.mtime_ns}\0{which}\n".encode())


def _notice(failed: Sequence[CartFile], count: int, names: set[str]) -> str:
    """The list of what is not in a partial cart; its first line has its own name, which no file of the cart has."""
    name = next(each for each in _names() if each not in names)
    lines = [f"# {name}: {count} files of this cart could not be had"]
    room = ROOM
    for each in failed:
        line = f"{each.path}: {each.error}"
        room -= len(line.encode())
        if room < 0:
            break
        lines.append(line)
    if len(lines) - 1 < count:
        lines.append(f"# and {count - len(lines) + 1} more, which the cart's record names")
    return "\n".join(lines) + "\n"


def _names() -> Any:
    yield "MISSING.txt"
    number = 0
    while True:
        number += 1
        yield f"MISSING-{number}.txt"
