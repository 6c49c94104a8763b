"""Answers that go on: one JSON object a line, or server-sent events, no faster than the caller reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

__all__ = ["HEARTBEAT", "Live", "send"]

HEARTBEAT = 15.0
"""Seconds after which a silent stream shows that it lives."""

EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Live:
    """What an operation gives that goes on: objects as they come, None for a sign of life."""

    items: AsyncIterator[msgspec.Struct | None]


@implementer(IPushProducer)
class _Gate:
    """Open while the caller reads."""

    def __init__(self) -> None:
        self._closed: Deferred[None] | None = None

    def pauseProducing(self) -> None:
        """The caller does not keep up."""
        if self._closed is None:
            self._closed = Deferred()

    def resumeProducing(self) -> None:
        """He does again."""
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)

    def stopProducing(self) -> None:
        """He has left; the operation is cancelled by the framework."""

    async def passed(self) -> None:
        """Wait until the gate is open."""
        if self._closed is not None:
            await self._closed


async def send(request: Any, live: Live) -> None:
    """Write ``live`` to its end as an answer with status 200.

    Server-sent events (with ``id`` where an item has a position) if the caller accepts them, else JSON lines.
    """
    as_events = EVENT_STREAM in (request.header("accept") or "")
    request.setResponseCode(200)
    request.setHeader("Content-Type", EVENT_STREAM if as_events else JSON_LINES)
    request.setHeader("Cache-Control", "no-store")
    # nginx would keep the lines until its buffer is full.
    request.setHeader("X-Accel-Buffering", "no")
    if request.method == b"HEAD":
        await live.items.aclose()  # type: ignore[attr-defined]  # they are generators
        return
    request.write(b"")
    gate = _Gate()
    request.registerProducer(gate, True)
    try:
        async for item in live.items:
            request.write(_event(item) if as_events else _line(item))
            await gate.passed()
    finally:
        await live.items.aclose()  # type: ignore[attr-defined]  # they are generators, which must end now
        if request.channel is not None:
            request.unregisterProducer()


def _line(item: msgspec.Struct | None) -> bytes:
    return b"\n" if item is None else msgspec.json.encode(item) + b"\n"


def _event(item: msgspec.Struct | None) -> bytes:
    if item is None:
        return b":\n\n"
    position = getattr(item, "position", None)
    identity = b"" if position is None else b"id: %d\n" % position
    return identity + b"data: " + msgspec.json.encode(item) + b"\n\n"
