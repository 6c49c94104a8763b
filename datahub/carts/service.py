"""What can be asked of carts: make, look, list, download, delete, retry. It never sees a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from uuid import uuid4

import msgspec
from sqlalchemy import Connection

from datahub.auth.identity import Caller
from datahub.carts import line, tables
from datahub.carts.downloads import DELETED, Downloads
from datahub.carts.fetching import subjects
from datahub.carts.model import Cart, CartFile, Order, Status, check_uid, read_order
from datahub.carts.pipeline import LANES, STAGE
from datahub.carts.reading import Layouts
from datahub.carts.tar import Layout
from datahub.carts.view import went
from datahub.errors import Conflict, Gone, InvalidRequest, NotFound, NotPermitted
from datahub.events import Actor, Event
from datahub.events.feed import Feed
from datahub.events.summary import Summary, summarise
from datahub.events.tables import Wanted
from datahub.events.tables import find as find_events
from datahub.events.watching import changes, until_final
from datahub.kit.filters import Filter
from datahub.kit.threads import Pool
from datahub.web.body import json_object
from datahub.web.sending import SourceChanged
from datahub.work import ledger
from datahub.work.lane import Floor

__all__ = ["CartFailed", "Carts", "NotReady", "Rules"]

HEARTBEAT: Final = 15.0
SMALL_BODY: Final = 64 * 1024
"""Larger bodies are read in a thread: checking each file of 100,000 takes a second."""


class Body(msgspec.Struct):
    """A body of which the files are not decoded yet: all at once, other threads would wait for that."""

    fileids: list[msgspec.Raw]
    partial: Any = False


class NotReady(Conflict):
    """The cart has no tar yet; ``cart`` is how it stands."""

    code = "cart.not_ready"

    def __init__(self, cart: Cart) -> None:
        super().__init__("The cart is not ready for download.")
        self.cart = cart


class CartFailed(Conflict):
    """The cart will have no tar."""

    code = "cart.failed"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says: who reads what, which uids can't be, how long (ms) records stay."""

    shared: bool
    reserved: tuple[str, ...]
    keep: int
    check_name: Callable[[str, str], None]
    break_off: bool = False
    helpers: int = 1
    """How many work at one cart."""
    cost: Callable[[str], int] = lambda _: ledger.COST
    any_hashsum: bool = False
    """Whether a digest that no file can have is taken, and the cart ends in an error, as with Cartd."""


class Carts:
    """The verbs. ``admit`` raises when the hub takes no new work."""

    def __init__(
        self,
        floor: Floor,
        feed: Feed,
        pool: Pool,
        layouts: Layouts,
        downloads: Downloads,
        admit: Callable[[], None],
        rules: Rules,
    ) -> None:
        self.store = floor.store
        self.pool = pool
        self.downloads = downloads
        self.rules = rules
        self._queue = floor.queue
        self._clock = floor.clock
        self._reactor = floor.reactor
        self._changed = floor.changed
        self._feed = feed
        self._layouts = layouts
        self._admit = admit

    async def make(self, caller: Caller, uid: str, body: bytes) -> Cart:
        """Take a cart on: it is on disk when this returns. The same body again is the same cart.

        Raises `InvalidRequest`, `Conflict` (the uid has another content, or is another's), `NoSpace`, `Unavailable`.
        """
        check_uid(uid, self.rules.reserved)
        order = self._read(body) if len(body) <= SMALL_BODY else await self.pool.run(self._read, body)
        self._admit()
        cart = await self.store.run("make cart", partial(self._make, caller, uid, order, str(uuid4())))
        if len(body) > SMALL_BODY:
            await self.pool.run(order.forget)
        self._announce()
        return cart

    def _read(self, body: bytes) -> Order:
        if not body.strip():
            raise InvalidRequest("Invalid JSON document: the body is empty")
        try:
            raw = msgspec.json.decode(body, type=Body)
            return self._order({"fileids": raw.fileids, "partial": raw.partial})
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Read as any other body, it is told what is wrong.
            return self._order(json_object(body))

    def _order(self, document: Mapping[str, Any]) -> Order:
        return read_order(document, self.rules.check_name, any_hashsum=self.rules.any_hashsum)

    def _make(self, caller: Caller, uid: str, order: Order, number: str, connection: Connection) -> Cart:
        found = tables.find_by_uid(connection, uid, lock=True)
        now = self._clock.wall()
        if found is not None and not found.status.gone:
            return self._again(caller, found, order, connection)
        if found is not None:
            self._permit(caller, found, reads=False)
            if found.has_files:
                # Somebody may still download them: Housekeeping removes it once nobody does.
                tables.set_aside(connection, found.id)
            else:
                tables.remove(connection, [found.id], now)
        new = _new_cart(number, uid, caller.name, order, now)
        if not tables.add(connection, new, order.wishes, actor_of(caller)):
            # Somebody else was quicker; or it was us, and the commit's answer was lost.
            there = tables.find_by_uid(connection, uid)
            if there is None:
                raise Conflict(f"cart {uid!r} was made and removed meanwhile: ask again", code="cart.exists")
            return self._again(caller, there, order, connection)
        ledger.enqueue(connection, STAGE, new.id, new.submitter, cost=self.rules.cost(new.submitter))
        return new

    def _again(self, caller: Caller, found: Cart, order: Order, connection: Connection) -> Cart:
        if found.digest != order.digest:
            raise Conflict(
                f"cart {found.uid!r} exists with other content: take another uid, or delete it first",
                code="cart.exists",
            )
        self._permit(caller, found, reads=True)
        if found.status is Status.ERROR:
            self._permit(caller, found, reads=False)
            return self._restage(caller, found, connection)
        return found

    def _restage(self, caller: Caller, found: Cart, connection: Connection) -> Cart:
        now = self._clock.wall()
        tables.wait_again(connection, found.id)
        afresh: dict[str, Any] = dict.fromkeys(("error", "failing_since", "waiting", "time_error"))
        afresh["status"] = Status.WAITING
        tables.change(connection, found, now, actor=actor_of(caller), what="retried", **afresh)
        ledger.enqueue(connection, STAGE, found.id, found.submitter, cost=self.rules.cost(found.submitter))
        return replace(found, **afresh)

    async def retry(self, caller: Caller, uid: str) -> Cart:
        """Stage again what failed; raises `NotFound`, `NotPermitted`, and `Conflict` if the cart has not failed."""
        self._admit()

        def write(connection: Connection) -> Cart:
            found = self._own(connection, caller, uid)
            if found.status is not Status.ERROR:
                raise Conflict(f"cart {uid!r} is {found.status}: only one in error is retried", code="cart.not_failed")
            return self._restage(caller, found, connection)

        cart = await self.store.run("retry cart", write)
        self._announce()
        return cart

    async def find(self, caller: Caller, uid: str) -> Cart:
        """The cart, also one that is gone; raises `NotFound`, or `NotPermitted` if it is somebody else's."""
        found = await self.store.read("find cart", partial(tables.find_by_uid, uid=uid))
        if found is None:
            raise _unknown()
        self._permit(caller, found, reads=True)
        return found

    async def held(self, caller: Caller, uid: str) -> Cart:
        """The cart, unless it is gone; raises as `find`, and `Gone`, which says when and why it went."""
        return _there(await self.find(caller, uid))

    async def ready(self, caller: Caller, uid: str, wait: float = 0.0) -> Cart:
        """The cart, ready to be downloaded, if it is so within ``wait`` seconds.

        Raises `NotFound`, `Gone`, `NotReady`, `CartFailed`.
        """
        found = await self.await_settled(caller, uid, wait) if wait else await self.find(caller, uid)
        if _there(found).status is Status.ERROR:
            raise CartFailed(f"The cart could not be made: {found.error}")
        if found.status is not Status.READY:
            raise NotReady(found)
        return found

    async def layout(self, cart: Cart, top: str) -> Layout:
        """Where everything lies in the tar of a cart that is ready."""
        return await self._layouts.of(cart, top)

    async def await_settled(self, caller: Caller, uid: str, seconds: float) -> Cart:
        """The cart, once nothing is done for it any more, or ``seconds`` have passed."""
        first = await self.find(caller, uid)
        look = partial(self.find, caller, uid)
        return await until_final(look, _settled, self._feed, first.id, seconds, self._reactor)

    async def watch(self, caller: Caller, uid: str) -> AsyncIterator[Cart | None]:
        """The cart now and after each change until it is settled; None as a sign of life."""
        first = await self.find(caller, uid)
        look = partial(self.find, caller, uid)
        async for each in changes(look, _settled, _same, self._feed, first.id, HEARTBEAT, self._reactor):
            yield each

    async def files(self, cart: Cart, first: int, count: int) -> list[CartFile]:
        """Up to ``count`` files of the cart from position ``first`` on."""
        look = partial(tables.window, number=cart.id, first=first, count=count)
        return await self.store.read("files of a cart", look)

    async def file(self, cart: Cart, path: str) -> CartFile | None:
        """The file at ``path``: they are in order, so that few are looked at."""
        return await self.store.read("find a file", partial(_search, cart, path))

    async def undigested(self, cart: Cart) -> int:
        """How many files still have no SHA-256."""
        return await self.store.read("count digests", partial(tables.count_undigested, number=cart.id))

    async def require_digestible(self, cart: Cart) -> None:
        """Raise `SourceChanged`, naming the first file that has no SHA-256 and will get none."""
        found = await self.store.read("failed digests", partial(tables.undigestable, number=cart.id))
        if found is not None:
            raise SourceChanged(f"{found.path!r} has no digest: {found.error}")

    async def find_many(self, wanted: Filter) -> list[Cart]:
        """A page of carts; whose they are, `whose` has checked."""
        return await self.store.read("list carts", partial(tables.find_many, wanted=wanted))

    def whose(self, caller: Caller, submitter: str) -> str | None:
        """The submitter whose carts are asked for (me, a name, or * for all: None); raises `NotPermitted`."""
        name = caller.name if submitter == "me" else submitter
        if name != caller.name and not caller.may("carts:admin") and not self.rules.shared:
            whom = "all submitters" if name == "*" else f"{name!r}"
            raise NotPermitted(f"submitter {whom}: others' carts need the scope carts:admin")
        return None if name == "*" else name

    async def timeline(self, caller: Caller, uid: str) -> Sequence[Event]:
        """All events of one cart, oldest first."""
        cart = await self.find(caller, uid)
        return await self.store.read("timeline", partial(find_events, wanted=Wanted(subject=cart.id), limit=1000))

    async def summary(self) -> Summary:
        """How many carts are in which status, and what ended lately."""

        def look(connection: Connection) -> Summary:
            return summarise(connection, tables.KIND, self._clock.wall(), tables.oldest(connection))

        return await self.store.read("sum up carts", look)

    async def delete(self, caller: Caller, uid: str) -> None:
        """Let a cart go: staging stops, and its files are let go of; raises `NotFound` and `NotPermitted`."""
        number = await self.store.run("delete cart", partial(self._delete, caller, uid))
        if self.rules.break_off:
            self.downloads.break_off(number)
            self._queue.signal(DELETED)
        self._announce()

    def _delete(self, caller: Caller, uid: str, connection: Connection) -> str:
        found = self._own(connection, caller, uid)
        if found.status.gone:
            raise _unknown()
        now, actor = self._clock.wall(), actor_of(caller)
        for subject in subjects(found.id, self.rules.helpers):
            ledger.withdraw(connection, LANES, subject)
        gone: dict[str, Any] = {"status": Status.DELETED, "time_gone": now, "reason": f"deleted by {caller.name}"}
        tables.change(connection, found, now, actor=actor, **gone)
        line.leave(connection, found.id)
        return found.id

    def _own(self, connection: Connection, caller: Caller, uid: str) -> Cart:
        found = tables.find_by_uid(connection, uid, lock=True)
        if found is None:
            raise _unknown()
        self._permit(caller, found, reads=False)
        return found

    def _permit(self, caller: Caller, cart: Cart, *, reads: bool) -> None:
        """One's own; another's with ``admin``, or to read when carts are shared or an anonymous caller made it."""
        if caller.name == cart.submitter or caller.may("carts:admin"):
            return
        open_to_readers = self.rules.shared or cart.submitter.startswith("anonymous@")
        if not (reads and open_to_readers):
            raise NotPermitted(f"cart {cart.uid!r} is not yours, {caller.name!r}", code="cart.not_yours")

    def _announce(self) -> None:
        for lane in LANES:
            self._queue.announce(lane)
        self._changed()


def actor_of(caller: Caller) -> Actor:
    """``caller`` as the events tell of him."""
    return Actor(caller.name, caller.kind, caller.address, caller.request)


def _there(cart: Cart) -> Cart:
    if cart.status.gone:
        raise Gone(went(cart), code="cart.gone")
    return cart


def _unknown() -> NotFound:
    return NotFound("The cart does not exist or has already been deleted", code="cart.not_found")


def _search(cart: Cart, path: str, connection: Connection) -> CartFile | None:
    low, high, wanted = 0, cart.files, path.split("/")
    while low < high:
        middle = (low + high) // 2
        (file,) = tables.window(connection, cart.id, middle, 1) or (None,)
        if file is None:
            return None
        if file.path == path:
            return file
        if file.path.split("/") < wanted:
            low = middle + 1
        else:
            high = middle
    return None


def _settled(cart: Cart) -> bool:
    return cart.status.settled


def _same(cart: Cart) -> Cart:
    return cart


def _new_cart(number: str, uid: str, submitter: str, order: Order, now: int) -> Cart:
    values: dict[str, Any] = dict.fromkeys(Cart.__slots__)
    values |= {
        "id": number,
        "uid": uid,
        "submitter": submitter,
        "digest": order.digest,
        "partial": order.partial,
        "status": Status.WAITING,
        "files": len(order.wishes),
        "staged_files": 0,
        "staged_size": 0,
        "attempts": 0,
        "time_created": now,
        "time_used": now,
        "has_files": True,
    }
    return Cart(**values)
