"""Connections that keep the hub waiting."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from datahub.web.app import App, Call
from datahub.web.silence import unsent
from tests.web.memory import LIMITS, Wire, make_site

LATE = 0.6


class Slow:
    """Answers when it is told to."""

    app = App()

    def __init__(self) -> None:
        self.waiting: Deferred[None] = Deferred()

    @app.operation("GET", "/slow", scope="")
    async def slow(self, call: Call) -> dict[str, Any]:
        await self.waiting
        return {}

    @app.operation("POST", "/slow", scope="")
    async def take(self, call: Call) -> dict[str, Any]:
        return {"size": len(call.body)}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def site(clock, slow):
    return make_site([slow.app], clock=clock)


def drip(wire: Wire, clock: Clock, data: bytes, pause: float) -> float:
    """Send byte by byte until the site has had enough; how long that took."""
    begun = clock.seconds()
    for byte in data:
        if wire.closing() or wire.transport.value():
            break
        wire.send(bytes([byte]))
        clock.advance(pause)
    return clock.seconds() - begun


def test_many_connections_and_their_requests_are_one_timer(site, clock):
    """However many are open and whatever they ask."""
    wires = [Wire(site) for _ in range(50)]
    for each in wires:
        each.send(b"POST /slow HTTP/1.1\r\nHost: hub\r\nContent-Length: 2\r\n\r\nhi")
    assert len(clock.getDelayedCalls()) == 1
    for each in wires:
        each.hang_up()
    assert clock.getDelayedCalls() == []


def test_idle_after_a_request(site, clock):
    """The time for idling begins anew with each answer."""
    wire = Wire(site)
    clock.advance(LIMITS.idle - 1)
    wire.send(b"POST /slow HTTP/1.1\r\nHost: hub\r\nContent-Length: 2\r\n\r\nhi")
    clock.advance(LIMITS.idle - 1)
    assert not wire.closing()
    clock.advance(1 + LATE)
    assert wire.closing()
    assert len(wire.replies) == 1
    wire.hang_up()
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("start", ["", "POST /slow HTTP/1.1\r\nHost: hub\r\nContent-Length: 1000\r\n\r\n"])
def test_a_request_that_comes_by_drops(site, clock, start):
    """Head or body, a byte now and then does not hold a connection: 408, about a minute after it began."""
    wire = Wire(site).send(start.encode())
    took = drip(wire, clock, b"GET /" + b"a" * 500, 10)
    assert 60 <= took <= 75
    assert (wire.reply.status, wire.reply.json["code"]) == (408, "request.slow")
    assert wire.closing()
    wire.hang_up()
    assert clock.getDelayedCalls() == []


def test_a_slow_line_is_no_attack(site, clock):
    """A body at 2 kB/s comes through, however long it takes."""
    site.largest_body = 10**6
    site.limits = LIMITS.__class__(connections=9, header=16384, body=10**6, idle=60.0)
    wire = Wire(site).send(b"POST /slow HTTP/1.1\r\nHost: hub\r\nContent-Length: 400000\r\n\r\n")
    for _ in range(40):
        wire.send(b"x" * 10_000)
        clock.advance(5)
    assert wire.reply.json == {"size": 400_000}
    wire.hang_up()


class Stuffed:
    """What Twisted keeps of what could not be sent, below TLS."""

    def __init__(self, count: int) -> None:
        self.transport = type("Tcp", (), {"dataBuffer": b"x" * count, "offset": 1, "_tempDataLen": 1})


def test_an_answer_that_is_not_read(site, clock, slow):
    """While the hub works nothing is cut; an answer of which nothing is taken for a minute is."""
    wire = Wire(site).send(b"GET /slow HTTP/1.1\r\nHost: hub\r\n\r\n")
    clock.advance(500)
    assert not wire.closing()
    tcp: Any = wire.transport
    tcp.dataBuffer = b"x" * 1000
    tcp.offset = 0
    for _ in range(20):
        tcp.offset += 10
        clock.advance(30)
    assert not wire.closing()
    clock.advance(15)
    for _ in range(5):
        clock.advance(15)
    assert wire.transport.disconnected or wire.transport.disconnecting
    wire.hang_up()
    assert clock.getDelayedCalls() == []


def test_answers_that_are_all_alike(site, clock, slow):
    """Of each some bytes are on their way whenever it is looked: that is no stall, as they are others each time."""
    slow.waiting.callback(None)
    wire = Wire(site)
    tcp: Any = wire.transport
    tcp.dataBuffer = b"x" * 300
    for _ in range(40):
        wire.send(b"GET /slow HTTP/1.1\r\nHost: hub\r\n\r\n")
        clock.advance(7)
    assert not tcp.disconnecting
    for _ in range(9):
        clock.advance(15)
    assert tcp.disconnecting, "nobody takes the last one"
    wire.hang_up()


def test_a_long_answer_into_a_full_buffer(site, clock, slow):
    """It is as full each time, because what was taken is made up for at once."""
    wire = Wire(site).send(b"GET /slow HTTP/1.1\r\nHost: hub\r\n\r\n")
    tcp: Any = wire.transport
    tcp.dataBuffer = b"x" * 1000
    for _ in range(20):
        wire.channel.requests[0].sentLength += 10
        clock.advance(15)
    assert not tcp.disconnecting
    for _ in range(6):
        clock.advance(15)
    assert tcp.disconnecting
    wire.hang_up()


def test_what_is_not_sent():
    """Under TLS it lies in the connection below."""
    assert unsent(Stuffed(10)) == 10
    assert unsent(None) == 0


def test_what_the_kernel_has():
    """Counts until the other side has taken it: who reads slowly takes nothing else for minutes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        transport = SimpleNamespace(socket=ours)
        assert unsent(transport) == 0
        sent = ours.send(bytes(100_000))
        assert unsent(transport) >= sent
        theirs.recv(200_000)
        assert unsent(transport) == 0
    assert unsent(transport) == 0, "it is closed"


def test_who_does_not_let_himself_be_closed(site, clock):
    """After a while the connection is cut."""
    wire = Wire(site)
    clock.advance(LIMITS.idle + LATE)
    assert (wire.transport.disconnecting, wire.transport.disconnected) == (True, False)
    clock.advance(16)
    assert wire.transport.disconnected
    wire.hang_up()
    assert clock.getDelayedCalls() == []
