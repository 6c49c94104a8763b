"""What a handler answers, as a value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from datahub.web.request import HubRequest

__all__ = ["Answer", "Flow"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body (bytes and text as they are, else it becomes JSON; None: no body), and further headers."""

    status: int
    body: msgspec.Struct | Mapping[str, Any] | bytes | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def encoded(self) -> bytes:
        """The body's bytes; JSON ends with a newline, for people with a terminal."""
        if isinstance(self.body, bytes):
            return self.body
        if isinstance(self.body, str):
            return self.body.encode()
        return b"" if self.body is None else msgspec.json.encode(self.body) + b"\n"


@dataclass(frozen=True, slots=True)
class Flow:
    """An answer whose body ``send`` writes to the request, at the caller's pace; ``length`` None if it is not known."""

    status: int
    content_type: str
    length: int | None
    send: Callable[[HubRequest], Awaitable[None]]
    headers: Mapping[str, str] = field(default_factory=dict)
