"""How a tar, a part of it, or one member is given: conditions, ranges, names (RFC 9110, 13 and 14)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from twisted.logger import Logger

from datahub.carts.model import Cart, CartFile
from datahub.carts.reading import Notice, Reading, close_all, content
from datahub.carts.service import Carts
from datahub.carts.tar import Layout
from datahub.errors import PreconditionFailed, RangeNotSatisfiable
from datahub.kit.threads import taking
from datahub.web.app import Answer, Call, Flow
from datahub.web.disposition import disposition
from datahub.web.ranges import Span, Unsatisfiable, matches, span
from datahub.web.request import HubRequest
from datahub.web.sending import Piece, SourceChanged, send_pieces

log = Logger()

__all__ = ["GUARDS", "default_name", "give_member", "give_notice", "give_tar"]

# It is nobody's but the archive's: a browser must not take it for a page of ours.
GUARDS: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


def default_name(cart: Cart) -> str:
    """What a tar is called that nobody has given a name; always the same, so that a download can be gone on with."""
    ready = datetime.fromtimestamp((cart.time_ready or 0) // 1000, UTC)
    return f"data_{ready:%Y_%m_%d_%H_%M_%S}.tar"


async def give_tar(call: Call, carts: Carts, cart: Cart, layout: Layout, name: str) -> Answer | Flow:
    """The tar of a cart that is ready, saved as ``name``; the part of it that is asked for."""
    headers = {**GUARDS, "Content-Disposition": disposition(name)}
    if cart.missing is not None:
        headers["X-Datahub-Missing"] = str(cart.files - cart.staged_files)
    kind = "application/octet-stream"
    part = _part(call, layout.tag, layout.length, headers)
    if part is None:
        return Answer(304, None, headers)
    await carts.downloads.begin(cart)
    send = _Sending(carts, cart, layout, part)
    return Flow(_status(headers), kind, part.end - part.first, send, headers)


async def give_member(call: Call, carts: Carts, cart: Cart, file: CartFile) -> Answer | Flow:
    """One file of a cart that is ready."""
    facts = file.facts
    if facts is None:
        raise SourceChanged(f"{file.path!r} is not here any more")
    tag = f'"{facts.inode:x}-{facts.size:x}-{facts.ctime_ns:x}"' if file.holding is None else f'"{file.sha256}"'
    headers = {**GUARDS, "Content-Disposition": disposition(file.path.rpartition("/")[2])}
    part = _part(call, tag, facts.size, headers)
    if part is None:
        return Answer(304, None, headers)
    await carts.downloads.begin(cart)
    send = _SendingMember(carts, cart, file, part)
    return Flow(_status(headers), "application/octet-stream", part.end - part.first, send, headers)


def give_notice(call: Call, notice: Notice) -> Answer:
    """The list of what is missing in a partial cart, as a member."""
    headers = {**GUARDS, "Content-Disposition": disposition(notice.path)}
    part = _part(call, f'"{notice.sha256}"', len(notice.body), headers)
    if part is None:
        return Answer(304, None, headers)
    return Answer(_status(headers), notice.body[part.first : part.end], headers, "text/plain; charset=utf-8")


def _status(headers: Mapping[str, str]) -> int:
    return 206 if "Content-Range" in headers else 200


def _part(call: Call, tag: str, size: int, headers: dict[str, str]) -> Span | None:
    """Which bytes are asked for, and the headers that go with them; None if the caller has all of it.

    Raises `PreconditionFailed` and `RangeNotSatisfiable`.
    """
    headers |= {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-transform"}
    condition = call.header("if-match")
    # A weak tag never matches here (RFC 9110, 13.1.1).
    if condition is not None and not {"*", tag} & {each.strip() for each in condition.split(",")}:
        raise PreconditionFailed(f"If-Match is {condition[:200]}, but this is {tag} now")
    if matches(call.header("if-none-match"), tag):
        return None
    whole = Span(0, size, size)
    if call.method == "HEAD" or call.header("if-range") not in (None, tag):
        return whole
    try:
        part = span(call.header("range"), size)
    except Unsatisfiable:
        raise RangeNotSatisfiable(f"there are {size} bytes, and the range begins behind them", size=size) from None
    if part is None:
        return whole
    headers["Content-Range"] = part.content_range
    return part


@contextmanager
def _telling(cart: Cart) -> Iterator[None]:
    """Tell the operator why a download was broken off: its caller may have got a part, and sees no reason."""
    try:
        yield
    except SourceChanged as error:
        log.warn("a download of cart {uid} is broken off: {error}", uid=cart.uid, error=str(error))
        raise


@dataclass(frozen=True, slots=True)
class _Sending:
    """Writes a part of a tar to a request."""

    carts: Carts
    cart: Cart
    layout: Layout
    part: Span

    async def __call__(self, request: HubRequest) -> None:
        carts = self.carts
        reading = Reading(self.cart, self.layout, self.part.first, self.part.end)
        with carts.downloads.under_way(self.cart, request.abort), _telling(self.cart):
            await send_pieces(request, reading.batches(carts.store, carts.pool), carts.pool)


@dataclass(frozen=True, slots=True)
class _SendingMember:
    """Writes a part of one file to a request."""

    carts: Carts
    cart: Cart
    file: CartFile
    part: Span

    async def __call__(self, request: HubRequest) -> None:
        with self.carts.downloads.under_way(self.cart, request.abort), _telling(self.cart):
            await send_pieces(request, self._batches(), self.carts.pool)

    async def _batches(self) -> AsyncGenerator[list[Piece], None]:
        if self.part.first < self.part.end:
            make = partial(content, self.file, self.part.first, self.part.end)
            yield [await taking(self.carts.pool, make, lambda made: close_all([made]))]
