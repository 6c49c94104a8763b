"""Bodies of any size, handed on as fast as the caller takes them and never faster: nothing piles up in between."""

# mypy: allow-untyped-calls
# (Twisted's own methods have no types, and are called here as ours.)
from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from datahub.errors import UpstreamFault, UpstreamSilent
from datahub.web.request import HubRequest

__all__ = ["Gate", "Upstream", "pipe", "pour"]

LOOKS = 4
"""How often within the time allowed it is looked whether an upstream still sends."""


class Upstream(Protocol):
    """A body that another server is about to send."""

    def deliver(self, protocol: TwistedProtocol) -> None:
        """Let ``protocol`` have it; its transport is a push producer."""

    def abort(self) -> None:
        """Close that connection at once, however much is still to come."""


async def pipe(
    upstream: Upstream,
    request: HubRequest,
    clock: IReactorTime,
    *,
    who: str,
    stall: float,
    part: range | None = None,
    most: int | None = None,
) -> None:
    """Hand on the body of ``upstream``, or that ``part`` of it, to the caller.

    Its connection is closed at once when the caller leaves, and when the part is complete. Raises `UpstreamFault`,
    naming ``who``, if it ends early or has more than ``most`` bytes, and `UpstreamSilent` if nothing comes for
    ``stall`` seconds although it could be taken; so that no caller takes a part for the whole.
    """
    piping = _Pipe(upstream, request, who, part, most)
    try:
        if part is not None and not part:
            return
        upstream.deliver(piping)
        with _Watched(piping, stall, clock):
            await piping.done
    finally:
        piping.close()


async def pour(pieces: AsyncGenerator[bytes, None], request: HubRequest) -> None:
    """Send ``pieces``, asking for the next only when the caller has room for it."""
    gate = Gate()
    request.registerProducer(gate, True)
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                request.write(piece)
                await gate.opened()
    finally:
        if request.channel is not None:
            request.unregisterProducer()


class _Pipe(TwistedProtocol):
    """The protocol that a body is delivered to, and the producer that the caller's connection holds back."""

    def __init__(self, upstream: Upstream, request: HubRequest, who: str, part: range | None, most: int | None) -> None:
        self.done: Deferred[None] = Deferred()
        self.moved = False
        self.paused = False
        self._upstream = upstream
        self._request = request
        self.who = who
        self._skip = part.start if part is not None else 0
        self._left = len(part) if part is not None else None
        self._room = most
        self._registered = False

    def connectionMade(self) -> None:
        """Let the caller's connection say how fast."""
        self._request.registerProducer(self, True)
        self._registered = True

    def dataReceived(self, data: bytes) -> None:
        """Hand on what is wanted of ``data``."""
        self.moved = True
        if self.done.called:
            return
        wanted = self._wanted(data)
        if wanted and self._fits(len(wanted)):
            self._request.write(wanted)
        if self._left == 0:
            self._end(None)

    def _wanted(self, data: bytes) -> bytes:
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data

    def _fits(self, count: int) -> bool:
        if self._room is None:
            return True
        self._room -= count
        if self._room < 0:
            self._end(UpstreamFault(f"{self.who} sends more than is allowed here"))
        return self._room >= 0

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008 - Twisted's default
        """The body has ended, whole or not."""
        if reason.check(ResponseDone) and not self._left:
            self._end(None)
        else:
            self._end(UpstreamFault(f"{self.who} broke off what it sends"))

    def fail(self, error: UpstreamFault) -> None:
        """Give up."""
        self._end(error)

    def _end(self, error: UpstreamFault | None) -> None:
        if self.done.called:
            return
        if error is None:
            self.done.callback(None)
        else:
            self.done.errback(error)

    def close(self) -> None:
        """Let go of both sides; of the upstream in a way that stops it now."""
        if self._registered and self._request.channel is not None:
            self._request.unregisterProducer()
        self._registered = False
        self._upstream.abort()

    def pauseProducing(self) -> None:
        """The caller is slow."""
        self.paused = True
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The caller has room."""
        self.paused = False
        self.moved = True
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """The caller has left."""
        self._upstream.abort()

    @property
    def _transport(self) -> Any:
        return self.transport


class _Watched:
    """Gives a pipe up, within the block, when nothing comes for ``stall`` seconds although it could be taken."""

    def __init__(self, piping: _Pipe, stall: float, clock: IReactorTime) -> None:
        self._piping = piping
        self._every = stall / LOOKS
        self._clock = clock
        self._idle = 0
        self._call: IDelayedCall | None = None

    def __enter__(self) -> None:
        self._call = self._clock.callLater(self._every, self._look)

    def __exit__(self, *_: object) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _look(self) -> None:
        piping = self._piping
        self._idle = 0 if piping.moved or piping.paused else self._idle + 1
        piping.moved = False
        if self._idle >= LOOKS:
            piping.fail(UpstreamSilent(f"{piping.who} sends nothing more"))
            return
        self._call = self._clock.callLater(self._every, self._look)


class Gate:
    """A push producer that is asked by its writer whether it may go on."""

    def __init__(self) -> None:
        self._closed = False
        self._waiting: Deferred[None] | None = None

    async def opened(self) -> None:
        """Wait until the caller has room."""
        if self._closed:
            self._waiting = Deferred()
            await self._waiting

    def pauseProducing(self) -> None:
        """The caller is slow."""
        self._closed = True

    def resumeProducing(self) -> None:
        """The caller has room."""
        self._closed = False
        self._open()

    def stopProducing(self) -> None:
        """The caller has left; who writes is cancelled for it."""
        self._closed = True

    def _open(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)
