"""HTTP/1.1 as the hub speaks it: requests of our own class, limits, and a count of all that goes on."""

# mypy: allow-untyped-calls
# (Twisted's own methods have no types, and are called here as ours.)
from __future__ import annotations

from collections.abc import Collection
from secrets import token_hex
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Protocol, cast

import msgspec
from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Site

from datahub.auth import Gate
from datahub.config import LimitsSection
from datahub.web.request import HubRequest
from datahub.web.traffic import Traffic

__all__ = ["HubChannel", "HubSite", "RequestLog"]

# Bodies up to this many bytes are kept in memory, larger ones in a file without a name.
IN_MEMORY = 64 * 1024


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

    def connectionMade(self) -> None:
        """Count in."""
        self.site.traffic.connections.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted gives no default here
        """Count out, and tell the requests under way."""
        super().connectionLost(reason)
        self.site.traffic.connections.discard(self)

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
            self.write(_not_http(self.site.node))
        self.loseConnection()


def _not_http(node: str) -> bytes:
    problem = {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "this is not a request of HTTP/1.1, or its headers are too large",
        "code": "request.malformed",
    }
    body = msgspec.json.encode(problem) + b"\n"
    head = (
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
        f"X-Datahub-Error: request.malformed\r\nX-Datahub-Node: {node}\r\nX-Request-Id: {token_hex(8)}\r\n"
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
    ) -> None:
        super().__init__(root, HubRequest, timeout=limits.idle, reactor=reactor, parsePOSTFormSubmission=False)
        self.gate = gate
        self.limits = limits
        self.largest_body = max(limits.body, getattr(root, "largest_body", 0))
        self.node = node
        self.traffic = traffic
        self.anonymous = anonymous
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
