"""Carts over HTTP, in the hub's own grammar; `datahub.carts.pacifica` has the paths of Pacifica's Cartd."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import partial
from typing import Annotated, Any, Final

import msgspec

from datahub.carts.giving import GUARDS, give_member, give_notice, give_tar
from datahub.carts.model import STAGED, Cart, CartFile, Status
from datahub.carts.reading import Notice
from datahub.carts.script import fetch_script
from datahub.carts.service import Carts, NotReady
from datahub.carts.tar import header, top_of
from datahub.carts.view import CartView, view
from datahub.errors import NotFound, Unavailable
from datahub.events import Event
from datahub.kit.filters import Filter
from datahub.web.app import Answer, App, Call, Flow
from datahub.web.lists import Cursor, ListQuery, Look, page_of, parse_wait, read_filter
from datahub.web.live import Live
from datahub.web.pipe import pour
from datahub.web.request import HubRequest
from datahub.web.sending import SourceChanged

__all__ = ["BEGUN", "DELETED", "CartRoutes", "Message"]

BEGUN: Final = {"message": "Cart Processing has begun"}
DELETED: Final = {"message": "Cart Deleted Successfully"}
FILES: Final = 10_000
"""The most files that a record tells of at once."""
WINDOW: Final = 500


class CartLook(Look, frozen=True, kw_only=True):
    """How a record is asked for; its files from position ``after`` on, ``limit`` of them at most."""

    after: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    limit: Annotated[int, msgspec.Meta(ge=0, le=FILES)] = FILES


class Wait(msgspec.Struct, frozen=True):
    """How long the answer may wait until the cart is ready."""

    wait: str = ""


class Top(msgspec.Struct, frozen=True):
    """The folder that the tar has its files in; by default as in the tar that is called after the uid."""

    top: str = ""
    digests: bool = True


class CartViews(msgspec.Struct, frozen=True):
    """A page of carts, and the cursor of the next."""

    items: list[CartView]
    next: str | None


class CartTimeline(msgspec.Struct, frozen=True):
    """All that happened to one cart, oldest first."""

    items: list[Event]


class Message(msgspec.Struct, frozen=True):
    """What Pacifica's Cartd answers."""

    message: str


class CartRoutes:
    """The resource of carts; a body may have ``body_limit`` bytes.

    Callers reach the hub at ``url``, if that is given.
    """

    app = App()

    def __init__(self, carts: Carts, body_limit: int, url: str | None = None) -> None:
        self._carts = carts
        self._url = url
        self.body_limit = body_limit

    @app.operation("GET", "/carts", scope="carts:read", takes=ListQuery, gives={200: CartViews})
    async def list_carts(self, call: Call, query: ListQuery) -> Answer:
        """List carts."""
        submitter = self._carts.whose(call.caller, query.submitter)
        found = await self._carts.find_many(read_filter(Filter, query, submitter, Status))
        items = [view(each, self._carts.rules.keep) for each in found[: query.limit]]
        last = found[query.limit - 1] if len(found) > query.limit else None
        return page_of(call, items, None if last is None else Cursor(last.time_created, last.id))

    @app.operation("POST", "/carts/<uid>", scope="carts:write", gives={201: Message}, bodies={"application/json": None})
    async def make(self, call: Call, uid: str) -> Answer:
        """Ask for a cart: many files of the archive."""
        cart = await self._carts.make(call.caller, uid, call.body)
        return Answer(201, BEGUN, {"Location": view(cart, 0).links["self"]})

    @app.operation("GET", "/carts/<uid>", scope="carts:read", takes=CartLook, gives={200: CartView, 410: CartView})
    async def show(self, call: Call, look: CartLook, uid: str) -> Answer | Live:
        """Tell how a cart is doing, and each of its files: now, when that is settled, or at each change."""
        if look.watch:
            await self._carts.find(call.caller, uid)
            return Live(self._views(call, uid))
        cart = await self._carts.await_settled(call.caller, uid, parse_wait(look.wait))
        if cart.status.gone:
            return Answer(410, view(cart, self._carts.rules.keep), {"X-Datahub-Error": "cart.gone"})
        files = await self._carts.files(cart, look.after, look.limit + 1)
        more = files[look.limit].number if len(files) > look.limit else None
        shown = partial(_encoded, cart, self._carts.rules.keep, files[: look.limit], more)
        # A long list takes its time, which is nobody else's.
        body = shown() if len(files) <= WINDOW else await self._carts.pool.run(shown)
        return Answer(200, body)

    async def _views(self, call: Call, uid: str) -> AsyncIterator[CartView | None]:
        async for each in self._carts.watch(call.caller, uid):
            yield None if each is None else view(each, self._carts.rules.keep)

    @app.operation("GET", "/carts/<uid>/events", scope="carts:read", gives={200: CartTimeline})
    async def timeline(self, call: Call, uid: str) -> CartTimeline:
        """Tell all that happened to a cart."""
        return CartTimeline([*await self._carts.timeline(call.caller, uid)])

    @app.operation("POST", "/carts/<uid>/retry", scope="carts:write", gives={202: CartView})
    async def retry(self, call: Call, uid: str) -> Answer:
        """Stage again what failed."""
        return Answer(202, view(await self._carts.retry(call.caller, uid), self._carts.rules.keep))

    @app.operation("DELETE", "/carts/<uid>", scope="carts:write", gives={200: Message})
    async def delete(self, call: Call, uid: str) -> Answer:
        """Let a cart go."""
        await self._carts.delete(call.caller, uid)
        return Answer(200, DELETED)

    @app.operation("GET", "/carts/<uid>/<name>.tar", scope="carts:read", takes=Wait, gives={200: None, 206: None})
    async def tar(self, call: Call, wait: Wait, uid: str, name: str) -> Answer | Flow:
        """Give the tar, or a part of it."""
        cart = await self._ready(call, uid, wait.wait)
        layout = await self._carts.layout(cart, top_of(name))
        return await give_tar(call, self._carts, cart, layout, f"{layout.top}.tar")

    @app.operation(
        "GET", "/carts/<uid>/files/<path:path>", scope="carts:read", takes=Wait, gives={200: None, 206: None}
    )
    async def member(self, call: Call, wait: Wait, uid: str, path: str) -> Answer | Flow:
        """Give one file of a cart, or a part of it."""
        cart = await self._ready(call, uid, wait.wait)
        notice = Notice.of(cart)
        if notice is not None and path == notice.path:
            return give_notice(call, notice)
        file = await self._carts.file(cart, path)
        if file is None or file.status != STAGED:
            why = f" could not be staged: {file.error}" if file is not None else " is not in this cart"
            raise NotFound(f"{path!r}{why}", code="cart.no_file")
        return await give_member(call, self._carts, cart, file)

    @app.operation("GET", "/carts/<uid>/index", scope="carts:read", takes=Top, gives={200: None})
    async def index(self, call: Call, top: Top, uid: str) -> Flow:
        """Tell where each member lies in the tar: path, offset of its bytes, size, sha256."""
        cart = await self._ready(call, uid, "")
        if top.digests:
            await self._require_digests(cart)
        layout = await self._carts.layout(cart, top_of(top.top or cart.uid))
        facts = {"top": layout.top, "size": layout.length, "etag": layout.tag}
        return _streamed("application/json", self._index(cart, layout, facts))

    async def _index(self, cart: Cart, layout: Any, facts: Any) -> AsyncGenerator[bytes, None]:
        yield msgspec.json.encode(facts)[:-1] + b',"items":['
        index, between = 0, b""
        async for files in self._windows(cart):
            rows = []
            for each in files:
                head = header(f"{layout.top}/{each.path}", each.size or 0, each.mtime_ns or 0)
                row = {"path": each.path, "offset": layout.starts[index] + len(head), "size": each.size}
                rows.append(msgspec.json.encode(row | {"sha256": each.sha256}))
                index += 1
            yield between + b",\n".join(rows)
            between = b",\n"
        notice = Notice.of(cart)
        if notice is not None:
            offset = layout.starts[index] + len(notice.header(layout.top))
            row = {"path": notice.path, "offset": offset, "size": len(notice.body), "sha256": notice.sha256}
            yield between + msgspec.json.encode(row)
        yield b"]}\n"

    @app.operation("GET", "/carts/<uid>/manifest", scope="carts:read", takes=Top, gives={200: None})
    async def manifest(self, call: Call, top: Top, uid: str) -> Flow:
        """Give the digests in the form that `sha256sum -c` reads, beside the folder that was unpacked."""
        cart = await self._ready(call, uid, "")
        await self._require_digests(cart)
        # A line without a digest is one that `sha256sum -c` only warns of.
        await self._carts.require_digestible(cart)
        return _streamed("text/plain; charset=utf-8", self._manifest(cart, top_of(top.top or cart.uid)))

    async def _manifest(self, cart: Cart, top: str) -> AsyncGenerator[bytes, None]:
        async for files in self._windows(cart):
            yield b"".join(_line(each.sha256 or "", f"{top}/{each.path}") for each in files)
        notice = Notice.of(cart)
        if notice is not None:
            yield _line(notice.sha256, f"{top}/{notice.path}")

    @app.operation("GET", "/carts/<uid>/get.sh", scope="carts:read", takes=Top, gives={200: None})
    async def script(self, call: Call, top: Top, uid: str) -> Answer:
        """Give a script that downloads the tar, however often it is cut off, unpacks it and checks what came."""
        cart = await self._carts.held(call.caller, uid)
        text = fetch_script(self._url or _origin(call), cart.uid, top_of(top.top or cart.uid))
        return Answer(200, text, {**GUARDS, "Content-Disposition": "attachment; filename=get.sh"}, "text/x-shellscript")

    async def _ready(self, call: Call, uid: str, wait: str) -> Cart:
        try:
            return await self._carts.ready(call.caller, uid, parse_wait(wait))
        except NotReady as error:
            # Never 202 at a name that is saved: curl would keep the text as the tar.
            raise Unavailable(f"the cart is {error.cart.status}: ask again", code="cart.not_ready") from None

    async def _require_digests(self, cart: Cart) -> None:
        missing = await self._carts.undigested(cart)
        if missing:
            raise Unavailable(
                f"the digests of {missing} files are still being computed: ask again", code="cart.no_digests"
            )

    async def _windows(self, cart: Cart) -> AsyncGenerator[Sequence[CartFile], None]:
        """The staged files; raises `SourceChanged` if some went meanwhile: what breaks off is never taken for whole."""
        first, count = 0, 0
        while files := await self._carts.files(cart, first, WINDOW):
            staged = [each for each in files if each.status == STAGED]
            count += len(staged)
            yield staged
            first = files[-1].number + 1
        if count != cart.staged_files:
            raise SourceChanged(f"cart {cart.uid} is gone")


def _streamed(kind: str, pieces: AsyncGenerator[bytes, None]) -> Flow:
    async def send(request: HubRequest) -> None:
        await pour(pieces, request)

    return Flow(200, kind, None, send, GUARDS)


def _encoded(cart: Cart, keep: int, files: list[CartFile], more: int | None) -> bytes:
    return msgspec.json.encode(view(cart, keep, files, more)) + b"\n"


def _line(digest: str, path: str) -> bytes:
    """As coreutils writes it: a backslash in a name is escaped, and one before the line says so."""
    escaped = path.replace("\\", "\\\\")
    return f"{'' if escaped == path else chr(92)}{digest}  {escaped}\n".encode()


def _origin(call: Call) -> str:
    """How the caller reached us."""
    scheme = "https" if call.request.secure else "http"
    return f"{scheme}://{call.header('host') or 'localhost'}"
