"""Messages over HTTP: the two calls of the service it replaces, unchanged, and those that came with this one."""

from __future__ import annotations

from typing import Any

import msgspec

from datahub.errors import DatahubError
from datahub.messages.giving import Given, given
from datahub.messages.reading import message_in, texts_in
from datahub.messages.service import Messages
from datahub.web.app import Answer, App, Call

__all__ = ["MessageRoutes"]

# A byte of text is at most six in JSON (\u0000), and some stand around it.
GROWTH, AROUND = 6, 1024


class Posted(msgspec.Struct, frozen=True):
    """A message that is to be kept."""

    message: str


class Kept(msgspec.Struct, frozen=True):
    """What a message is found by: the SHA-256 of its bytes (text in UTF-8), in hexadecimal digits."""

    digest: str


class Batch(msgspec.Struct, frozen=True):
    """Messages that are kept together or not at all."""

    messages: list[str]


class Digests(msgspec.Struct, frozen=True):
    """Digests of messages."""

    digests: list[str]


class Missing(msgspec.Struct, frozen=True):
    """The digests that were asked about and are not there."""

    missing: list[str]


def refused(_: int, error: DatahubError) -> dict[str, Any]:
    """The replaced service's shape of an error."""
    return {"err_msg": str(error)}


RAW = {"text/plain": None, "application/octet-stream": None}


class MessageRoutes:
    """The resource of messages."""

    app = App(refused)

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self.body_limit = GROWTH * messages.limit + AROUND

    @app.operation(
        "POST",
        "/messages",
        scope="messages:write",
        bodies={"application/json": Posted, **RAW},
        gives={201: Kept},
    )
    async def post(self, call: Call) -> Answer:
        """Keep a message; 201 means that it is in the store."""
        return _kept(201, await self._messages.post(message_in(call.body, call.header("content-type"))))

    @app.operation(
        "POST", "/messages/batch", scope="messages:write", bodies={"application/json": Batch}, gives={201: Digests}
    )
    async def batch(self, call: Call) -> Answer:
        """Keep messages together, all or none."""
        texts = texts_in(call.body, call.header("content-type"), "messages")
        return Answer(201, Digests(await self._messages.batch([text.encode("utf-8") for text in texts])))

    @app.operation(
        "POST", "/messages/missing", scope="messages:read", bodies={"application/json": Digests}, gives={200: Missing}
    )
    async def missing(self, call: Call) -> Missing:
        """Tell which of the messages named are not there."""
        return Missing(await self._messages.missing(texts_in(call.body, call.header("content-type"), "digests")))

    @app.operation(
        "PUT",
        "/messages/<digest>",
        scope="messages:write",
        bodies={"application/octet-stream": None},
        gives={200: Kept, 201: Kept},
    )
    async def put(self, call: Call, digest: str) -> Answer:
        """Keep the body as the message of this digest, if it is."""
        kept, new = await self._messages.put(digest, call.body)
        return _kept(201 if new else 200, kept)

    @app.operation(
        "GET",
        "/messages/<digest>",
        scope="messages:read",
        gives={200: Given, 206: None, 304: None},
        at_once="show_remembered",
    )
    async def show(self, call: Call, digest: str) -> Answer:
        """Give a message: as JSON, or by Accept (text/plain, application/octet-stream) its bytes."""
        return given(await self._messages.find(digest), call.method, call.header)

    def show_remembered(self, call: Call, digest: str) -> Answer | None:
        """Give a message that is in memory."""
        message = self._messages.remembered(digest)
        return None if message is None else given(message, call.method, call.header)

    @app.operation("DELETE", "/messages/<digest>", scope="messages:admin", gives={204: None})
    async def delete(self, call: Call, digest: str) -> Answer:
        """Keep a message no longer."""
        await self._messages.delete(digest, call.caller)
        return Answer(204)


def _kept(status: int, digest: str) -> Answer:
    return Answer(status, Kept(digest), {"Location": f"/messages/{digest}"})
