"""What can be asked of transfers: submit, look, list, cancel, retry. It never sees a request."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
from sqlalchemy import Connection

from datahub.archive import check_product_id
from datahub.auth.identity import Caller
from datahub.errors import Conflict, DatahubError, InvalidRequest, NoSpace, NotFound, NotPermitted
from datahub.events import Actor, Event
from datahub.events.feed import Feed
from datahub.events.summary import Summary, summarise
from datahub.events.tables import Wanted
from datahub.events.tables import find as find_events
from datahub.events.watching import changes, until_final
from datahub.kit.times import parse_time
from datahub.store.requests import Request, check_key, given, once
from datahub.transfers import file_tables, tables
from datahub.transfers.model import FileRecord, Filter, Place, Status, Submission, Transfer, parse_checksum
from datahub.transfers.movers import Destination
from datahub.transfers.pipeline import LANES, STAGE, Limits, too_late
from datahub.transfers.tidying import TIDY
from datahub.work import ledger
from datahub.work.lane import Floor
from datahub.work.tables import RUNNING

__all__ = ["Rules", "Seen", "Transfers"]

ROUTE = "submitTransfer"
LONGEST = 4096
HEARTBEAT = 15.0
BATCH = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """A transfer as its submitter sees it: the record, its place in the ledger, the bytes moved so far."""

    transfer: Transfer
    place: Place | None
    moved: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says: who reads what, how much at once, how long (ms) records are kept."""

    shared: bool
    limits: Limits
    keep: int


class Transfers:
    """The verbs. ``admit`` raises when the hub takes no new work; ``moved`` is the pipeline's count of bytes."""

    def __init__(
        self,
        floor: Floor,
        feed: Feed,
        movers: Mapping[str, Destination],
        admit: Callable[[], None],
        moved: Mapping[str, int],
        rules: Rules,
    ) -> None:
        self._store = floor.store
        self._queue = floor.queue
        self._clock = floor.clock
        self._feed = feed
        self._changed = floor.changed
        self._movers = movers
        self._admit = admit
        self._moved = moved
        self.rules = rules

    def now(self) -> int:
        """Milliseconds since 1970."""
        return self._clock.wall()

    async def submit(self, caller: Caller, submission: Submission, key: str | None) -> str:
        """Take a delivery on: its id, once it is on disk.

        The same ``key`` (Idempotency-Key) with the same submission gives the same id and no second transfer.
        Raises `InvalidRequest`, `Conflict` (the key was used for something else), `NoSpace`, `Unavailable`.
        """
        self._check(submission)
        request = _request(caller, submission, key)
        try:
            self._admit()
        except NoSpace:
            # What was answered once is answered again, whatever room there is by now.
            if request is not None:
                known = await self._store.read("look for a key", partial(given, request=request))
                if known is not None:
                    return known
            raise
        new = _new_transfer(caller, submission, self._clock.wall())
        number = await self._store.run("submit transfer", partial(self._submit, new, request, actor_of(caller)))
        self._announce(STAGE)
        return number

    def _check(self, submission: Submission) -> None:
        _check_given("product_id", submission.product_id)
        _check_given("destination_path", submission.destination_path)
        self._mover_of(submission.destination_path).check(submission.destination_path)
        check_product_id(submission.product_id)
        parse_checksum(submission.checksum)
        deadline = parse_time("deadline", submission.deadline or "")
        if deadline is not None and deadline <= self._clock.wall():
            raise InvalidRequest(f"deadline {submission.deadline!r} has passed already", field="deadline")

    def _mover_of(self, destination: str) -> Destination:
        scheme = _scheme(destination)
        if scheme not in self._movers:
            known = ", ".join(f"{each}://" for each in sorted(self._movers)) or "none: see [transfers.movers]"
            raise InvalidRequest(
                f"destination_path {destination[:200]!r} must be a URL of a scheme that has a mover here: {known}",
                field="destination_path",
                code="transfer.no_mover",
            )
        return self._movers[scheme]

    def _submit(self, new: Transfer, request: Request | None, actor: Actor, connection: Connection) -> str:
        if request is not None:
            before = once(connection, request, 202, new.id, new.time_submitted)
            if before is not None:
                return before
        if tables.add(connection, new, actor):
            self._enqueue(connection, STAGE, new)
        return new.id

    def _enqueue(self, connection: Connection, lane: str, transfer: Transfer) -> None:
        ledger.enqueue(connection, lane, transfer.id, transfer.submitter, cost=self.rules.limits.cost(transfer))

    async def find(self, caller: Caller, number: str) -> Seen:
        """The transfer with id ``number``; raises `NotFound`, or `NotPermitted` when it is somebody else's."""
        transfer, place = await self._store.read("find transfer", partial(_look_up, number))
        if transfer is None:
            raise NotFound(f"job_id {number} not found", code="transfer.not_found")
        self._permit(caller, transfer, reads=True)
        return self._seen(transfer, place)

    def _seen(self, transfer: Transfer, place: Place | None) -> Seen:
        if place is not None and place.due is not None:
            # For people: by the wall clock.
            place = replace(place, due=place.due - self._clock.now() + self._clock.wall())
        return Seen(transfer, place, self._moved.get(transfer.id, 0))

    async def await_final(self, caller: Caller, number: str, seconds: float) -> Seen:
        """The transfer, once it is final or ``seconds`` have passed."""
        look = partial(self.find, caller, number)
        return await until_final(look, _final, self._feed, number, seconds, self._feed.deadlines)

    def watch(self, caller: Caller, number: str) -> AsyncIterator[Seen | None]:
        """The transfer now and after each change until it is final; None as a sign of life."""
        look = partial(self.find, caller, number)
        return changes(look, _final, self._touch, self._feed, number, HEARTBEAT, self._feed.deadlines)

    def _touch(self, seen: Seen) -> Seen:
        return replace(seen, moved=self._moved.get(seen.transfer.id, seen.moved))

    async def find_many(self, caller: Caller, wanted: Filter) -> list[Seen]:
        """A page of transfers; whose they are, `whose` has checked."""

        def look(connection: Connection) -> tuple[list[Transfer], dict[str, Place]]:
            found = tables.find_many(connection, wanted)
            return found, tables.find_places(connection, LANES, [each.id for each in found])

        found, places = await self._store.read("list transfers", look)
        return [self._seen(each, places.get(each.id)) for each in found]

    def whose(self, caller: Caller, submitter: str, *, reads: bool = True) -> str | None:
        """The submitter whose transfers are asked for (me, a name, or * for all: None); raises `NotPermitted`."""
        name = caller.name if submitter == "me" else submitter
        if name != caller.name and not caller.may("transfers:admin") and not (reads and self.rules.shared):
            whom = "all submitters" if name == "*" else f"{name!r}"
            raise NotPermitted(f"submitter {whom}: others' transfers need the scope transfers:admin")
        return None if name == "*" else name

    async def timeline(self, caller: Caller, number: str) -> Sequence[Event]:
        """All events of one transfer, oldest first."""
        await self.find(caller, number)
        wanted = Wanted(subject=number)
        return await self._store.read("timeline", partial(find_events, wanted=wanted, limit=1000))

    async def files(self, caller: Caller, number: str, first: int, limit: int) -> tuple[Transfer, list[FileRecord]]:
        """A transfer, and its files from the ``first`` on: those copied, or whose copy failed."""
        seen = await self.find(caller, number)
        page = partial(file_tables.find, job=number, first=first, limit=limit)
        return seen.transfer, await self._store.read("list files", page)

    async def summary(self) -> Summary:
        """How many transfers are in which status, and what ended lately."""

        def look(connection: Connection) -> Summary:
            return summarise(connection, tables.KIND, self._clock.wall(), tables.oldest(connection))

        return await self._store.read("sum up transfers", look)

    async def cancel(self, caller: Caller, number: str) -> Seen:
        """Stop the transfer: CANCELLED when nothing has begun, else CANCELLING until what was begun is undone.

        Raises `NotFound`, `NotPermitted`, and `Conflict` when it has ended or is being given its final name.
        """
        await self._store.run("cancel transfer", partial(self._cancel, caller, number))
        self._announce(*LANES)
        return await self.find(caller, number)

    def _cancel(self, caller: Caller, number: str, connection: Connection) -> None:
        transfer = self._own(connection, caller, number)
        if transfer.status in (Status.CANCELLING, Status.CANCELLED):
            return
        if transfer.status.final or is_being_published(connection, transfer):
            state = transfer.status if transfer.status.final else "being given its final name"
            raise Conflict(f"transfer {number} can't be cancelled any more: it is {state}", code="transfer.too_late")
        now, actor = self._clock.wall(), actor_of(caller)
        if ledger.withdraw(connection, LANES, number):
            ended = partial(tables.change, status=Status.CANCELLED, time_cancelled=now)
            ended(connection, transfer, now, actor=actor, detailed_status="cancelled before anything was moved")
        else:
            tables.change(connection, transfer, now, actor=actor, status=Status.CANCELLING)

    async def retry(self, caller: Caller, number: str) -> Seen:
        """Take up a transfer that ended in ERROR where it stopped.

        Raises `NotFound`, `NotPermitted`, and `Conflict` when it is in another state.
        """
        self._admit()
        await self._store.run("retry transfer", partial(self._retry, caller, number))
        self._announce(*LANES)
        return await self.find(caller, number)

    def _retry(self, caller: Caller, number: str, connection: Connection) -> None:
        transfer = self._own(connection, caller, number)
        if transfer.status is not Status.ERROR:
            raise Conflict(
                f"transfer {number} is {transfer.status}: only one in ERROR is retried", code="transfer.not_failed"
            )
        now = self._clock.wall()
        if transfer.deadline is not None and now >= transfer.deadline:
            raise Conflict(f"transfer {number} can't be retried: {too_late(transfer)}", code="transfer.too_late")
        staged = transfer.time_staging_finished is not None
        back = partial(tables.change, status=Status.STAGING if staged else Status.SUBMITTED, what="retried")
        back(
            connection,
            transfer,
            now,
            actor=actor_of(caller),
            detailed_status=None,
            failing_since=None,
            late_since=None,
            time_error=None,
        )
        # The next attempt tidies up before it copies; who does so now is stopped.
        ledger.withdraw(connection, [TIDY], transfer.id)
        self._enqueue(connection, self.rules.limits.lane_of(transfer) if staged else STAGE, transfer)

    async def for_each(self, caller: Caller, wanted: Filter, verb: str, *, dry_run: bool) -> dict[str, list[str]]:
        """Cancel or retry all that ``wanted`` finds: the ids ``done`` and ``refused``, or those it ``would`` try."""
        if verb == "retry" and not dry_run:
            self._admit()
        found = await self._store.read(f"find to {verb}", partial(tables.find_many, wanted=wanted))
        numbers = [each.id for each in found]
        if dry_run:
            return {"done": [], "refused": [], "would": numbers}
        work = self._cancel if verb == "cancel" else self._retry
        done: list[str] = []
        for first in range(0, len(numbers), BATCH):
            some = numbers[first : first + BATCH]
            done += await self._store.run(f"{verb} transfers", partial(_each, work, caller, some))
        self._announce(*LANES)
        return {"done": done, "refused": sorted(set(numbers) - set(done)), "would": []}

    def _own(self, connection: Connection, caller: Caller, number: str) -> Transfer:
        transfer = tables.find(connection, number, lock=True)
        if transfer is None:
            raise NotFound(f"job_id {number} not found", code="transfer.not_found")
        self._permit(caller, transfer, reads=False)
        return transfer

    def _permit(self, caller: Caller, transfer: Transfer, *, reads: bool) -> None:
        """One's own; another's with ``admin``, or to read when transfers are shared or an anonymous caller made it."""
        if caller.name == transfer.submitter or caller.may("transfers:admin"):
            return
        open_to_readers = self.rules.shared or transfer.submitter.startswith("anonymous@")
        if not (reads and open_to_readers):
            raise NotPermitted(
                f"'{caller.name}' does not match submitter for transfer {transfer.id}", code="transfer.not_yours"
            )

    def _announce(self, *lanes: str) -> None:
        for lane in lanes:
            self._queue.announce(lane)
        self._changed()


def is_being_published(connection: Connection, transfer: Transfer) -> bool:
    """Whether a transfer gets its final name just now; one that waits to be tried again can still be stopped."""
    if transfer.delivery is None:
        return False
    place = tables.find_place(connection, LANES, transfer.id)
    return place is None or place.state == RUNNING


def actor_of(caller: Caller) -> Actor:
    """``caller`` as the events tell of him."""
    return Actor(caller.name, caller.kind, caller.address, caller.request)


def _each(
    work: Callable[[Caller, str, Connection], None], caller: Caller, numbers: Sequence[str], connection: Connection
) -> list[str]:
    """Those of ``numbers`` that let the work be done; the others have changed meanwhile."""
    done = []
    for number in numbers:
        try:
            work(caller, number, connection)
        except DatahubError:
            continue
        done.append(number)
    return done


def _final(seen: Seen) -> bool:
    return seen.transfer.status.final


def _look_up(number: str, connection: Connection) -> tuple[Transfer | None, Place | None]:
    return tables.find(connection, number), tables.find_place(connection, LANES, number)


def _new_transfer(caller: Caller, submission: Submission, now: int) -> Transfer:
    nothing_yet = dict.fromkeys(Transfer.__slots__)
    known = msgspec.structs.asdict(submission) | {"deadline": parse_time("deadline", submission.deadline or "")}
    own = {
        "id": str(uuid4()),
        "submitter": caller.name,
        "status": Status.SUBMITTED,
        "attempts": 0,
        "time_submitted": now,
        **tables.gets_on(now),
    }
    return Transfer(**{**nothing_yet, **known, **own})


def _request(caller: Caller, submission: Submission, key: str | None) -> Request | None:
    if key is None:
        return None
    digest = hashlib.sha256(msgspec.json.encode(submission)).hexdigest()
    return Request(caller.name, check_key(key), ROUTE, digest)


def _scheme(destination: str) -> str:
    try:
        return urlsplit(destination).scheme
    except ValueError:
        return ""


def _check_given(field: str, value: str) -> None:
    if not value:
        raise InvalidRequest(f"Form did not specify {field}", field=field)
    if len(value.encode()) > LONGEST:
        raise InvalidRequest(f"{field} is longer than {LONGEST} bytes", field=field)
