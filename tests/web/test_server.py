"""Limits of a connection and of a request, in memory."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from datahub.config import LimitsSection
from datahub.kit.aio import start
from datahub.web.app import App, Call
from datahub.web.server import HubSite
from tests.web.memory import LIMITS, Entries, Wire, make_site

OVER = LIMITS.body + 1


class Echo:
    """Tells how many bytes came."""

    app = App()

    def __init__(self) -> None:
        self.waiting: Deferred[None] = Deferred()

    @app.operation("POST", "/echo", scope="")
    async def echo(self, call: Call) -> dict[str, Any]:
        return {"size": len(call.body)}

    @app.operation("GET", "/slow", scope="")
    async def slow(self, call: Call) -> dict[str, Any]:
        await self.waiting
        return {"slow": True}


@pytest.fixture
def echo() -> Echo:
    """The object whose operations are served."""
    return Echo()


@pytest.fixture
def clock() -> Clock:
    """The time of the site."""
    return Clock()


@pytest.fixture
def log() -> Entries:
    """The access log."""
    return Entries()


@pytest.fixture
def site(echo: Echo, clock: Clock, log: Entries) -> HubSite:
    """A site that serves the echo."""
    return make_site([echo.app], clock=clock, access_log=log)


def head(path: str = "/echo", *headers: str, method: str = "POST") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: hub", *headers, "", ""]).encode()


def is_413(wire: Wire) -> None:
    """Check that a body was refused as it should."""
    reply = wire.reply
    assert (reply.status, reply.json["code"]) == (413, "request.too_large")
    assert reply.json["detail"] == "the body is larger than the 2000 bytes that are accepted"
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-datahub-error"] == "request.too_large"
    assert reply.headers["connection"] == "close"
    assert reply.headers["x-datahub-node"] == "hub1"
    assert reply.json["request_id"] == reply.headers["x-request-id"]


def test_a_body_at_the_limit(site):
    """A body may have as many bytes as the limit, in one piece and in chunks."""
    body = b"x" * LIMITS.body
    assert Wire(site).send(head("/echo", f"Content-Length: {len(body)}") + body).reply.json == {"size": 2000}
    chunked = b"7d0\r\n" + body + b"\r\n0\r\n\r\n"
    assert Wire(site).send(head("/echo", "Transfer-Encoding: chunked") + chunked).reply.json == {"size": 2000}


def test_a_body_declared_too_large_is_refused_by_its_head(site, clock, log):
    """413 comes before the body, which is read and dropped so that the answer is not lost to a reset."""
    wire = Wire(site).send(head("/echo", f"Content-Length: {OVER}"))
    is_413(wire)
    assert not wire.closing()
    wire.send(b"x" * OVER)
    is_413(wire)
    assert wire.closing()
    wire.hang_up()
    assert [(entry.method, entry.path, entry.status) for entry in log.entries] == [("POST", "/echo", 413)]
    assert clock.getDelayedCalls() == []
    assert len(site.traffic.requests) == 0


def test_the_rest_of_a_refused_body_is_not_read_forever(site, clock, log):
    """One who goes on sending, or sends nothing more, is cut off."""
    wire = Wire(site).send(head("/echo", "Content-Length: 9999999") + b"x" * 5000)
    is_413(wire)
    clock.advance(5)
    assert wire.closing()
    wire.hang_up()
    assert [entry.status for entry in log.entries] == [413]
    assert clock.getDelayedCalls() == []


def test_head_and_body_in_one_piece(site):
    """What comes with the head is dropped as well, and nothing of it is taken for a next request."""
    wire = Wire(site).send(head("/echo", f"Content-Length: {OVER}") + b"x" * OVER + head("/echo"))
    is_413(wire)
    assert wire.closing()


def test_a_chunked_body_is_counted(site):
    """A body that does not say how long it is is refused when it has become too long."""
    wire = Wire(site).send(head("/echo", "Transfer-Encoding: chunked"))
    for _ in range(4):
        wire.send(b"1f4\r\n" + b"x" * 500 + b"\r\n")
    assert wire.transport.value() == b""
    wire.send(b"1\r\nx\r\n")
    is_413(wire)
    wire.send(b"1\r\nx\r\n0\r\n\r\n")
    is_413(wire)
    assert wire.closing()
    wire.hang_up()


def test_expect_continue(site):
    """One who asks first is told to go on, or is refused without being told to go on."""
    wire = Wire(site).send(head("/echo", "Content-Length: 2", "Expect: 100-continue"))
    assert wire.transport.value() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.send(b"hi").replies[-1].json == {"size": 2}
    wire = Wire(site).send(head("/echo", f"Content-Length: {OVER}", "Expect: 100-continue"))
    is_413(wire)
    wire.hang_up()


def test_a_body_that_can_t_be_kept(site, monkeypatch):
    """A full disk under the body is 507, not a fault."""

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr(site, "getContentFile", lambda length: Full())
    wire = Wire(site).send(head("/echo", "Content-Length: 2") + b"hi")
    assert (wire.reply.status, wire.reply.headers["retry-after"]) == (507, "60")
    wire.hang_up()


@pytest.mark.parametrize(
    "data",
    [
        b"what is this\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-A: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-A: " + b"a" * 9000 + b"\r\nX-B: " + b"b" * 9000 + b"\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http(site, data):
    """Nonsense is a problem too, once, and closes the connection."""
    wire = Wire(site).send(data)
    assert (wire.reply.status, wire.reply.json["code"]) == (400, "request.malformed")
    assert wire.reply.headers["x-datahub-error"] == "request.malformed"
    assert wire.reply.headers["x-datahub-node"] == "hub1"
    assert wire.reply.headers["x-request-id"]
    assert wire.closing()
    wire.hang_up()
    assert len(site.traffic.requests) == len(site.traffic.connections) == 0


def test_nonsense_in_a_refused_body_is_answered_once(site):
    """After a 413 nothing more is said, whatever comes."""
    wire = Wire(site).send(head("/echo", "Transfer-Encoding: chunked") + b"7d1\r\n" + b"x" * 2001 + b"\r\nzz\r\n")
    is_413(wire)
    wire.hang_up()


def test_an_idle_connection_is_closed(site, clock):
    """A connection on which nothing happens is closed after the idle time; a slow answer is not idle."""
    wire, busy = Wire(site), Wire(site).send(head("/slow", method="GET"))
    clock.advance(LIMITS.idle + 0.6)
    assert wire.closing()
    assert not busy.closing()
    wire.hang_up()
    busy.hang_up()


def test_one_connection_too_many(echo):
    """Beyond the limit a connection is closed without a word; when one has gone the next is taken."""
    site = make_site([echo.app], limits=LimitsSection(connections=1, header=16384, body=2000, idle=60.0))
    first = Wire(site)
    with capturedLogs() as events:
        second = Wire(site)
    assert second.closing()
    assert second.transport.value() == b""
    assert [event["limit"] for event in events] == [1]
    first.hang_up()
    third = Wire(site)
    assert third.send(head()).reply.status == 200
    third.hang_up()


def test_requests_under_way_and_new_ones_during_a_drain(site, echo):
    """While the hub drains requests are served, and each answer ends its connection."""
    slow, kept = Wire(site).send(head("/slow", method="GET")), Wire(site).send(head())
    assert "connection" not in kept.reply.headers
    drained = start(site.traffic.drain(10))
    kept.send(head())
    assert (kept.replies[1].status, kept.replies[1].headers["connection"]) == (200, "close")
    assert kept.closing()
    kept.hang_up()
    assert not drained.called
    echo.waiting.callback(None)
    assert (slow.reply.json, slow.reply.headers["connection"]) == ({"slow": True}, "close")
    slow.hang_up()
    assert drained.result is None


def test_large_bodies_leave_memory(echo):
    """A body beyond a size for memory goes through a file, and comes out whole."""
    site = make_site([echo.app], limits=LimitsSection(connections=9, header=16384, body=10**6, idle=60.0))
    body = b"x" * 300_000
    wire = Wire(site).send(head("/echo", f"Content-Length: {len(body)}") + body)
    assert wire.reply.json == {"size": 300_000}
    wire.hang_up()
