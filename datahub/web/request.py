"""One HTTP request: its id, its caller, its limits, and its end, which is always an answer or an abort."""

# mypy: allow-untyped-calls
# (Twisted's own methods have no types, and are called here as ours.)
from __future__ import annotations

import re
from dataclasses import replace
from http import HTTPStatus
from random import getrandbits
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import ITCPTransport
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES
from twisted.web.server import Request

from datahub.auth import Caller
from datahub.errors import DatahubError, NoSpace, TooLarge
from datahub.web.answer import Answer, Flow
from datahub.web.errors import Refusal, refusal

if TYPE_CHECKING:
    from datahub.web.site import HubSite

__all__ = ["HubRequest"]

# A caller's own request id is taken over only if it is harmless in a log line and in a header.
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Seconds that the rest of a refused body is read and dropped: closing at once would reset the connection,
# and a reset can destroy an answer that the caller has not read yet (RFC 9112, 9.6).
LINGER = 5.0
# nginx's number for a caller who left; it stands in the access log only.
LEFT = 499


def too_large(most: int) -> TooLarge:
    """The error for a body of more than ``most`` bytes."""
    return TooLarge(f"the body is larger than the {most} bytes that are accepted")


class HubRequest(Request):
    """A request of a `HubSite`."""

    defaultContentType = None
    # What the access log says of a request that ends before its first line is handed over.
    method = b"-"
    path = b"-"
    site: HubSite
    caller: Caller | None = None
    refuses: Refusal | None = None
    request_id = ""
    started = 0.0
    _received = 0
    _turned_away = False
    _aborted = False

    def __init__(self, channel: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        self.site = channel.site

    @property
    def address(self) -> str:
        """The host address of the caller; "unix" on a local socket."""
        peer = getattr(self.getClientAddress(), "host", None) or "unix"
        return self.site.guard.address(peer, self._forwarded())

    def _forwarded(self) -> list[str]:
        lines = self.requestHeaders.getRawHeaders(b"x-forwarded-for", [])
        return [line.decode("ascii", "replace") for line in lines]

    def check_origin(self) -> None:
        """Raise `NotPermitted` if a web page of another site asks."""
        self.site.guard.check_origin(self.header("sec-fetch-site"), self.header("origin"), self.header("host"))

    @property
    def secure(self) -> bool:
        """Whether the caller speaks TLS to us."""
        return bool(self.isSecure())

    @property
    def verb(self) -> str:
        """The method as text."""
        return self.method.decode("ascii", "backslashreplace")

    @property
    def place(self) -> str:
        """The path as it was sent, in harmless characters and without the query, which may hold secrets."""
        return self.path.decode("ascii", "backslashreplace")

    @property
    def status(self) -> int:
        """What the caller got; 499 if he left before anything was sent."""
        return self.code if self.startedWriting else LEFT

    def header(self, name: str) -> str | None:
        """A request header as text, the last one if it was repeated."""
        value = self.getHeader(name.encode("ascii"))
        return None if value is None else value.decode("utf-8", "replace")

    def body(self, most: int) -> bytes:
        """What the caller sent, whole; it is gone when the connection is.

        Raises `TooLarge` for more than ``most`` bytes: a listener takes what the most generous of its apps does.
        """
        if self._received > most:
            raise too_large(most)
        return b"" if self.content is None else cast(bytes, self.content.read())

    def identify(self) -> Caller:
        """Establish who is calling; raises `NotAuthenticated`."""
        known = self.site.gate.identify(self.header("authorization"), self.address, self.site.anonymous)
        self.caller = replace(known, request=self.request_id)
        return self.caller

    def gotLength(self, length: int | None) -> None:
        """All headers are here: give the answer its id, and turn a body away that is declared too large."""
        super().gotLength(length)
        self.started = self.site.reactor.seconds()
        given = self.header("x-request-id") or ""
        self.request_id = given if REQUEST_ID.fullmatch(given) else f"{getrandbits(64):016x}"
        self.setHeader("X-Request-Id", self.request_id)
        self.setHeader("X-Datahub-Node", self.site.node)
        self.site.traffic.requests.add(self)
        if length is not None and length > self.site.largest_body:
            self._turn_away(too_large(self.site.largest_body))

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a part of the body, unless it is over the limit: a chunked body tells its length only by its end."""
        if self._turned_away:
            return
        self._received += len(data)
        if self._received > self.site.largest_body:
            self._turn_away(too_large(self.site.largest_body))
            return
        try:
            super().handleContentChunk(data)
        except OSError as error:
            self._turn_away(NoSpace(f"the body could not be kept on disk: {error.strerror}"))

    def _turn_away(self, error: DatahubError) -> None:
        self._turned_away = True
        # Twisted looks at it after us, and would ask for the very body that was just refused.
        self.requestHeaders.removeHeader(b"expect")
        self.clientproto = b"HTTP/1.1"
        self.close_afterwards()
        self.write(self.refuse(Failure(error)))
        lingering = self.site.reactor.callLater(LINGER, self.abort)

        def end(_: object) -> None:
            if lingering.active():
                lingering.cancel()

        self.notifyFinish().addBoth(end)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is here whole: find who answers, unless it was turned away already."""
        if not self._turned_away:
            super().requestReceived(command, path, version)
            return
        self.method, self.uri, self.path = command, path, path.partition(b"?")[0]
        self.finish()

    def processingFailed(self, reason: Failure) -> Failure:
        """Answer what went wrong outside of any operation."""
        self.write(self.refuse(reason))
        self.finish()
        return reason

    def prepare(self, answer: Answer) -> bytes:
        """Set status and headers of ``answer``; gives the body that is to be written."""
        body = answer.encoded()
        # Twisted does not know the names of all.
        self.setResponseCode(answer.status, HTTPStatus(answer.status).phrase.encode("ascii"))
        if answer.body is not None:
            self.setHeader("Content-Type", answer.content_type)
        if answer.status not in NO_BODY_CODES:
            self.setHeader("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.setHeader(name, value)
        return body

    async def flow(self, flow: Flow) -> None:
        """Begin ``flow`` and write its body to the end; to HEAD its headers only."""
        self.setResponseCode(flow.status)
        self.setHeader("Content-Type", flow.content_type)
        if flow.length is not None:
            self.setHeader("Content-Length", str(flow.length))
        for name, value in flow.headers.items():
            self.setHeader(name, value)
        if self.method != b"HEAD":
            await flow.send(self)

    def refuse(self, failure: Failure) -> bytes:
        """Prepare the answer to a request that failed.

        When a part of another answer is out already the connection is aborted, so that nobody takes what he got
        for the whole.
        """
        answer = refusal(failure, self.verb, self.place, self.request_id, self.refuses)
        if self.startedWriting:
            # For the access log; the caller was told another status.
            self.code = answer.status
            self.abort()
            return b""
        body = self.prepare(answer)
        if self.method == b"HEAD":
            # Who sends it by `curl -X HEAD`, as Cartd's README does, waits for as many bytes as are told of.
            self.responseHeaders.removeHeader("Content-Length")
            self.close_afterwards()
        return body

    def abort(self) -> None:
        """Close the connection at once, in a way the caller notices."""
        self._aborted = True
        cast(ITCPTransport, self.transport).abortConnection()

    def write(self, data: bytes) -> None:
        """Send a part of the answer; while the hub drains, its headers say that the connection ends with it."""
        if not self.startedWriting and self.site.traffic.draining:
            self.close_afterwards()
        if not self._aborted:
            super().write(data)

    def close_afterwards(self) -> None:
        """End the connection with this answer."""
        if self.channel is not None:
            self.channel.persistent = False
            self.setHeader("Connection", "close")

    def finish(self) -> None:
        """End the answer; an aborted one has ended."""
        if not self._aborted:
            super().finish()
            self.site.traffic.requests.discard(self)

    def connectionLost(self, reason: Failure) -> None:
        """The caller left before the end, or was cut off."""
        self.site.log(self)
        self.site.traffic.requests.discard(self)
        super().connectionLost(reason)
