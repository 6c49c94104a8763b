"""Bodies handed on: parts of them, their ends, and pauses; what goes over real connections is tested with sandboxes."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from datahub.errors import UpstreamFault, UpstreamSilent
from datahub.kit.aio import start
from datahub.web.pipe import pipe, pour


class Request:
    """As much of a request as a pipe needs."""

    def __init__(self) -> None:
        self.channel = object()
        self.data = b""
        self.producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802 - Twisted's name
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802 - Twisted's name
        self.producer = None

    def write(self, data: bytes) -> None:
        self.data += data


class Upstream:
    """A body that a test sends."""

    def __init__(self) -> None:
        self.transport = StringTransport()
        self.protocol: Any = None
        self.aborted = False

    def deliver(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.makeConnection(self.transport)

    def abort(self) -> None:
        self.aborted = True

    def send(self, *pieces: bytes, end: Exception | None = None) -> None:
        for each in pieces:
            self.protocol.dataReceived(each)
        if end is not None:
            self.protocol.connectionLost(Failure(end))


def piped(**settings: Any) -> tuple[Request, Upstream, Clock, Deferred[None]]:
    """A pipe that has begun."""
    request, upstream, clock = Request(), Upstream(), Clock()
    any_request: Any = request
    running = start(pipe(upstream, any_request, clock, who="the agent", stall=4.0, **settings))
    return request, upstream, clock, running


def fault(running: Deferred[None], kind: type[Exception]) -> str:
    """The error that a pipe ended with."""
    found: list[Failure] = []
    running.addErrback(found.append)
    assert found[0].check(kind), found
    return str(found[0].value)


def test_a_whole_body() -> None:
    """It goes through as it comes, and both sides are let go of."""
    request, upstream, clock, running = piped()
    upstream.send(b"one", b"two", end=ResponseDone())
    assert (request.data, request.producer, running.called) == (b"onetwo", None, True)
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(("part", "data"), [(range(2, 5), b"234"), (range(9), b"012345678"), (range(4, 4), b"")])
def test_a_part(part: range, data: bytes) -> None:
    """What is before it is dropped, and behind it nothing more is read."""
    request, upstream, _, running = piped(part=part)
    if part:
        upstream.send(b"0123", b"456789")
    assert (request.data, upstream.aborted, running.called) == (data, True, True)


@pytest.mark.parametrize("end", [ConnectionLost(), RuntimeError()])
def test_an_end_that_is_none(end: Exception) -> None:
    """A body that is broken off is a fault."""
    _, upstream, _, running = piped()
    upstream.send(b"one", end=end)
    assert fault(running, UpstreamFault) == "the agent broke off what it sends"


def test_a_part_that_is_not_there() -> None:
    """A body that ends within the part is a fault, however well it ends."""
    _, upstream, _, running = piped(part=range(2, 9))
    upstream.send(b"0123", end=ResponseDone())
    assert "broke off" in fault(running, UpstreamFault)


def test_more_than_is_allowed() -> None:
    """It is cut."""
    request, upstream, _, running = piped(most=5)
    upstream.send(b"0123", b"4567")
    assert "more than is allowed" in fault(running, UpstreamFault)
    assert (request.data, upstream.aborted) == (b"0123", True)


def test_silence() -> None:
    """It is a fault when the caller waits, and none while he is slow."""
    request, upstream, clock, running = piped()
    request.producer.pauseProducing()
    assert upstream.transport.producerState == "paused"
    clock.pump([1.0] * 20)
    assert not running.called
    request.producer.resumeProducing()
    assert upstream.transport.producerState == "producing"
    clock.pump([1.0] * 4)
    upstream.send(b"late")
    clock.pump([1.0] * 4)
    assert not running.called
    clock.pump([1.0] * 2)
    assert fault(running, UpstreamSilent) == "the agent sends nothing more"
    assert upstream.aborted


def test_a_caller_who_leaves() -> None:
    """The upstream is cut at once, and cancelling leaves nothing behind."""
    request, upstream, clock, running = piped()
    request.producer.stopProducing()
    assert upstream.aborted
    running.addErrback(lambda _: None)
    running.cancel()
    assert clock.getDelayedCalls() == []


def test_pieces_are_asked_for_when_there_is_room() -> None:
    """None is made while the caller is slow."""
    made: list[bytes] = []

    async def pieces() -> Any:
        for each in (b"a", b"b", b"c"):
            made.append(each)
            yield each

    request: Any = Request()
    original = request.write

    def write(data: bytes) -> None:
        original(data)
        if data == b"a":
            request.producer.pauseProducing()

    request.write = write
    running = start(pour(pieces(), request))
    assert made == [b"a"]
    request.producer.resumeProducing()
    assert (made, request.data, running.called, request.producer) == ([b"a", b"b", b"c"], b"abc", True, None)
