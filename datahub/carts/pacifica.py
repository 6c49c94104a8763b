"""The paths and words of Pacifica's Cartd, those of its README of 2017 and those of version 0.7.0."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Final

import msgspec

from datahub import __version__
from datahub.carts.giving import default_name, give_tar
from datahub.carts.model import Cart, Status
from datahub.carts.routes import BEGUN, DELETED, Message
from datahub.carts.service import Carts, NotReady
from datahub.carts.tar import top_of
from datahub.errors import DatahubError, Gone, NotFound
from datahub.kit.clock import rfc3339
from datahub.web.app import Answer, App, Call, Flow
from datahub.web.request import HubRequest

__all__ = ["CartdRoutes"]

NOT_READY: Final = "The cart is not ready for download."
UNKNOWN: Final = "The cart does not exist or has already been deleted"
SOON: Final = "1"


class Named(msgspec.Struct, frozen=True):
    """What the tar is to be called; its files are in a folder of that name without ".tar". Cartd ignored the rest."""

    takes_more: ClassVar[bool] = True

    filename: str = ""


def refused(status: int, error: DatahubError) -> Mapping[str, Any]:
    """Cartd's shape of an error, without the inside of the program that it told of."""
    phrase = f"{status} {HTTPStatus(status).phrase}"
    return {"status": phrase, "message": str(error), "traceback": "", "version": __version__}


class CartdRoutes:
    """What is at the root: ``/`` and ``/{uid}``.

    With ``old_clients`` a cart that is not ready is said to be staging, whatever it does: pacifica-downloader gives up
    at any other word.
    """

    app = App(refuses=refused)

    def __init__(self, carts: Carts, body_limit: int, *, old_clients: bool) -> None:
        self._carts = carts
        self._old_clients = old_clients
        self.body_limit = body_limit

    @app.operation("GET", "/", scope="", gives={200: None})
    async def greet(self, call: Call) -> Answer:
        """Say who is here, in Cartd's words."""
        links = {"carts": "/carts", "health": "/health", "version": "/version"}
        told = {"message": "Pacifica Cartd Interface Up and Running", "version": __version__, "links": links}
        return Answer(200, told)

    @app.operation(("POST", "DELETE"), "/", scope="", gives={})
    async def nothing(self, call: Call) -> Answer:
        """Refuse what has no uid."""
        raise NotFound("Missing parameters: uid", code="cart.no_uid")

    @app.operation("POST", "/<uid>", scope="carts:write", gives={201: Message}, bodies={"application/json": None})
    async def make(self, call: Call, uid: str) -> Answer:
        """Ask for a cart."""
        await self._carts.make(call.caller, uid, call.body)
        return Answer(201, BEGUN)

    @app.operation("DELETE", "/<uid>", scope="carts:write", gives={200: Message})
    async def delete(self, call: Call, uid: str) -> Answer:
        """Let a cart go."""
        try:
            await self._carts.delete(call.caller, uid)
        except NotFound as error:
            raise NotFound("Not Found", code=error.code) from None
        return Answer(200, DELETED)

    @app.operation("GET", "/<uid>", scope="carts:read", takes=Named, gives={200: None, 202: None, 206: None})
    async def get(self, call: Call, named: Named, uid: str) -> Answer | Flow:
        """Give the tar; HEAD tells how the cart is doing."""
        if call.method == "HEAD":
            return await self._status(call, uid)
        try:
            cart = await self._carts.ready(call.caller, uid)
        except NotReady:
            return Answer(202, NOT_READY, {"Retry-After": SOON}, "text/plain; charset=utf-8")
        except Gone as error:
            gone = await self._carts.find(call.caller, uid)
            headers = {"X-Datahub-Error": error.code, "X-Datahub-Reason": reason(gone), "Cache-Control": "no-store"}
            return Answer(404, refused(404, NotFound(UNKNOWN)), headers)
        name = (named.filename.replace("\\", "/").rpartition("/")[2]) or default_name(cart)
        layout = await self._carts.layout(cart, top_of(name))
        return await give_tar(call, self._carts, cart, layout, name)

    async def _status(self, call: Call, uid: str) -> Answer | Flow:
        try:
            cart = await self._carts.held(call.caller, uid)
        except NotFound as error:
            return _failed(call, 404, f"No cart with uid {uid} found", error.code)
        if cart.status is Status.ERROR:
            return _failed(call, 500, cart.error or "", "cart.failed")
        status = cart.status
        if self._old_clients and status is not Status.READY:
            status = Status.STAGING
        return Answer(204, None, {"X-Pacifica-Status": status, "X-Pacifica-Message": ""})


def _failed(call: Call, status: int, message: str, code: str) -> Flow:
    """An answer to HEAD without a length: who sends HEAD by `curl -X HEAD` waits for as many bytes."""
    call.request.close_afterwards()
    headers = {
        "X-Pacifica-Status": "error",
        "X-Pacifica-Message": ascii_line(message),
        "X-Datahub-Error": code,
        "Cache-Control": "no-store",
    }
    return Flow(status, "application/json", None, _nothing, headers)


async def _nothing(_: HubRequest) -> None: ...


def ascii_line(text: str) -> str:
    """``text`` as a header can hold it: one line, in ASCII."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode("ascii")[:1000]


def reason(cart: Cart) -> str:
    """When and why a cart went, for a header."""
    when = "" if cart.time_gone is None else rfc3339(cart.time_gone)[:16] + "Z"
    return ascii_line(f"{cart.status} {when} {cart.reason or ''}".strip())
