"""How a Mesos peer, or a proxy before it, may misbehave: put one into `Peer.misbehaving` for an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from tests.fakes.mesos import answer

__all__ = ["cut", "gzipped", "hang", "html", "lie", "raw", "redirect", "stall", "status", "without_length"]

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n"


def hang(request: Any) -> Any:
    """Never answer."""
    return Deferred()


def status(code: int, body: str = "") -> Callable[[Any], Any]:
    """Answer with ``code``."""
    return lambda request: answer(request, code, body)


def html(request: Any) -> Any:
    """Answer with a page, as a proxy's login does."""
    return answer(request, 200, "<html><title>Log in at http://internal.example:8080</title></html>", "text/html")


def redirect(url: str, code: int = 302) -> Callable[[Any], Any]:
    """Send whoever asks elsewhere."""

    def elsewhere(request: Any) -> bytes:
        request.setHeader("Location", url)
        return answer(request, code, "")

    return elsewhere


def raw(data: bytes, *, close: bool) -> Callable[[Any], Any]:
    """Put any bytes on the wire."""

    def send(request: Any) -> Any:
        request.channel.transport.write(data)
        if close:
            request.channel.transport.loseConnection()
        return Deferred()

    return send


def stall(length: int, sent: bytes) -> Callable[[Any], Any]:
    """Promise ``length`` bytes, send some, and then nothing more."""
    return raw(HEAD.format(length).encode() + sent, close=False)


def cut(length: int, sent: bytes) -> Callable[[Any], Any]:
    """Promise ``length`` bytes, send some, and break off."""
    return raw(HEAD.format(length).encode() + sent, close=True)


def lie(length: int, sent: bytes) -> Callable[[Any], Any]:
    """Promise fewer bytes than are sent."""
    return cut(length, sent)


def without_length(sent: bytes) -> Callable[[Any], Any]:
    """Let the end of the connection be the end of the answer."""
    return raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + sent, close=True)


def gzipped(compressed: bytes) -> Callable[[Any], Any]:
    """Compress although nobody asked for it, as a proxy in front of an agent may."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n"
    return raw(head.format(len(compressed)).encode() + compressed, close=False)
