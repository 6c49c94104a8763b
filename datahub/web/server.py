"""HTTP/1.1 as the hub speaks it: requests of our own class, limits, and a count of all that goes on."""

# mypy: allow-untyped-calls
# (Twisted's own methods have no types, and are called here as ours.)
from __future__ import annotations

from collections.abc import Collection
from functools import partial
from http import HTTPStatus
from secrets import token_hex
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Protocol, cast

import msgspec
from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.resource import IResource
from twisted.web.server import Site

from datahub.auth import Gate
from datahub.config import LimitsSection
from datahub.web.guard import Guard
from datahub.web.request import HubRequest
from datahub.web.silence import Silence, unsent
from datahub.web.traffic import Traffic

__all__ = ["HubChannel", "HubSite", "RequestLog"]

# Bodies up to this many bytes are kept in memory, larger ones in a file without a name.
IN_MEMORY = 64 * 1024
# Seconds after which a connection that was to be closed is cut.
FORCE = 15.0
TOO_SLOW = "the request came too slowly, or not to its end"
NOT_HTTP = "this is not a request of HTTP/1.1, or its headers are too large"


class RequestLog(Protocol):
    """Where a line for each request is kept; ``sent`` counts the body's bytes."""

    def entry(
        self,
        address: str,
        caller: str,
        method: str,
        path: str,
        status: int,
        sent: int,
        milliseconds: float,
        request_id: str,
    ) -> None:
        """Take note of a request that has ended; never waits, never raises."""


class _Refused(TwistedProtocol):
    """A connection too many: it is closed without a word."""

    def connectionMade(self) -> None:
        # Not "None" from buildProtocol: what wraps a factory for TLS can't deal with that.
        cast(ITCPTransport, self.transport).abortConnection()


class HubChannel(HTTPChannel):
    """One HTTP/1.1 connection, counted."""

    site: HubSite
    requestFactory = HubRequest
    _host: IAddress | None = None

    def getHost(self) -> IAddress:  # noqa: N802 - Twisted's name
        """Where the caller connected to; asked of the system once, and not again with each request."""
        if self._host is None:
            self._host = cast(IAddress, super().getHost())
        return self._host

    _silence: Silence | None = None
    _sent: int = 0

    def _sent_in_all(self) -> int:
        """Bytes of the bodies of all answers that were written, be it that they have not left the hub."""
        under_way: int = sum(request.sentLength for request in self.requests)
        return self._sent + under_way

    def requestDone(self, request: Request) -> None:  # noqa: N802 - Twisted's name
        """Count what an answer had that has ended."""
        self._sent += request.sentLength
        super().requestDone(request)

    def connectionMade(self) -> None:
        """Count in."""
        self.site.traffic.connections.add(self)
        self._silence = Silence(
            self.site.traffic.deadlines,
            self.site.limits.idle,
            partial(unsent, self.transport),
            self._sent_in_all,
            idle=self._leave,
            slow=self._give_up,
            stalled=self.abort,
        )
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take note that the caller lives."""
        if self._silence is not None:
            self._silence.heard(len(data))
        super().dataReceived(data)

    def setTimeout(  # noqa: N802 - Twisted's name
        self, period: float | None
    ) -> float | None:
        """Twisted's way to say that a request is waited for, or is here: None."""
        previous, self.timeOut = self.timeOut, period  # type: ignore[assignment]
        if self._silence is not None:
            if period is None:
                self._silence.answer()
            else:
                self._silence.wait()
        return previous

    def resetTimeout(self) -> None:  # noqa: N802 - Twisted's name
        """Twisted's way to say that something came; `dataReceived` has said so already."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted gives no default here
        """Count out, and tell the requests under way."""
        super().connectionLost(reason)
        if self._silence is not None:
            self._silence.end()
        self.site.traffic.connections.discard(self)

    def _leave(self) -> None:
        """Close, by force if the other side does not let us."""
        self._abortingCall = self.site.traffic.deadlines.callLater(FORCE, self.abort)
        self.loseConnection()

    def _give_up(self) -> None:
        if not any(request.startedWriting for request in self.requests):
            self.write(_bare(self.site.node, 408, code="request.slow", detail=TOO_SLOW))
        self._leave()

    def close(self) -> None:
        """Close when what was written is sent."""
        if not getattr(self.transport, "disconnecting", False):
            self.loseConnection()

    def abort(self) -> None:
        """Close now, whatever is still to be sent."""
        cast(ITCPTransport, self.transport).abortConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted's own answer to what is not HTTP is a bare status line; if this name is ever gone, that comes back.
        if not any(request.startedWriting for request in self.requests):
            self.write(_bare(self.site.node, 400, code="request.malformed", detail=NOT_HTTP))
        self.loseConnection()


def _bare(node: str, status: int, *, code: str, detail: str) -> bytes:
    """An answer to what is no request, or not yet; the connection ends with it."""
    title = HTTPStatus(status).phrase
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    body = msgspec.json.encode(problem) + b"\n"
    head = (
        f"HTTP/1.1 {status} {title}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
        f"X-Datahub-Error: {code}\r\nX-Datahub-Node: {node}\r\nX-Request-Id: {token_hex(8)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class HubSite(Site):
    """The HTTP server of one listener."""

    protocol = HubChannel  # type: ignore[assignment]  # Twisted's default can turn into HTTP/2

    def __init__(
        self,
        root: IResource,
        gate: Gate,
        limits: LimitsSection,
        node: str,
        access_log: RequestLog,
        traffic: Traffic,
        reactor: Any,
        anonymous: Collection[str] = (),
        guard: Guard | None = None,
    ) -> None:
        super().__init__(root, HubRequest, timeout=limits.idle, reactor=reactor, parsePOSTFormSubmission=False)
        self.gate = gate
        self.limits = limits
        self.largest_body = max(limits.body, getattr(root, "largest_body", 0))
        self.node = node
        self.traffic = traffic
        self.anonymous = anonymous
        self.guard = guard or Guard()
        self._access_log = access_log

    def startFactory(self) -> None:
        """Open nothing: the access log is kept elsewhere, and needs no clock that ticks each second."""

    def stopFactory(self) -> None:
        """Close nothing."""

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/1.1 alone, whatever is installed."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A channel, if there is room for one more connection."""
        if not self.traffic.admits():
            return _Refused()
        channel = super().buildProtocol(addr)
        channel.totalHeadersSize = channel.MAX_LENGTH = self.limits.header
        return channel

    def getContentFile(self, length: int | None) -> BinaryIO:
        """Where a body is put while it comes in."""
        return cast(BinaryIO, SpooledTemporaryFile(max_size=IN_MEMORY))

    def log(self, request: HubRequest) -> None:  # type: ignore[override]  # all requests here are of this class
        """Hand the facts of an ended request to the access log."""
        self._access_log.entry(
            request.address,
            request.caller.name if request.caller else "-",
            request.verb,
            request.place,
            request.status,
            request.sentLength,
            (self.reactor.seconds() - request.started) * 1000,
            request.request_id,
        )
