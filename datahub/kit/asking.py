"""Asking over HTTP, carefully: an answer is read so far and so long, and what went wrong is said in plain words."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseDone, ResponseFailed

__all__ = ["LIMIT", "SHOWN", "UNREACHED", "Opening", "cause", "words"]

LIMIT = 64 * 1024
SHOWN = 300
UNREACHED = (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    RequestTransmissionFailed,
    ResponseFailed,
)
"""What an agent raises when no answer comes."""

TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)


class Opening(Protocol):
    """Reads at most ``limit`` bytes of a body, and leaves; ``whole`` says whether it was all."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._data = bytearray()
        self.whole = False
        self._limit = limit
        self.ended: Deferred[None] = Deferred(self._leave)

    @property
    def data(self) -> bytes:
        """What was read so far."""
        return bytes(self._data)

    @property
    def full(self) -> bool:
        """Whether it was left because of its size."""
        return len(self._data) >= self._limit

    def dataReceived(self, data: bytes) -> None:
        """Keep what there is room for."""
        self._data += data[: self._limit - len(self._data)]
        if self.full:
            self._leave()
            self._end()

    def connectionLost(self, reason: Failure = Failure(CancelledError())) -> None:  # noqa: B008 - as Twisted's
        """See why there is no more."""
        self.whole = reason.check(ResponseDone) is not None
        self._end()

    def _end(self) -> None:
        if not self.ended.called:
            self.ended.callback(None)

    def _leave(self, _: object = None) -> None:
        # What treq hands over can only close in good order, for which a hanging peer would have to do its part.
        inner = getattr(self.transport, "_producer", None)
        transport: Any = inner if hasattr(inner, "abortConnection") else self.transport
        leave = getattr(transport, "abortConnection", None) or transport.loseConnection
        leave()


def words(answer: bytes) -> str:
    """What an answer says to people, in one line: message or status of a JSON object, else its text."""
    text = answer.decode("utf-8", "replace")
    try:
        document = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    said = [document[key] for key in ("message", "status") if key in document] if isinstance(document, dict) else []
    if said and isinstance(said[0], str):
        text = said[0]
    elif text.lstrip().startswith("<"):
        text = TAGS.sub(" ", text)
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= SHOWN else line[:SHOWN] + "…"


def cause(error: Exception) -> str:
    """The innermost reason: Twisted and OpenSSL pack theirs into lists."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return cause(reasons[0].value)
    if error.args and isinstance(error.args[0], list):
        return "; ".join(str(each[-1]) if isinstance(each, tuple) else str(each) for each in error.args[0])
    return str(error).rstrip(".") or type(error).__name__
