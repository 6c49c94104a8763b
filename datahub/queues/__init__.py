"""How work is announced: a queue only says "look".

A message that is lost, doubled or late changes the moment, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Listener", "Queue"]


class Listener(Protocol):
    """The side of a lane that is told to look.

    A look that has begun is let to its end, also when the connection that called for it is gone.
    """

    async def look(self) -> bool:
        """Claim what there is room for; True means that there is room for more."""
        ...

    async def room(self) -> None:
        """Return when a slot is free again; may be cancelled at any time."""


class Queue(Protocol):
    """Carries announcements from the hub that has committed work to the hubs that may do it."""

    def listen(self, lane: str, listener: Listener) -> None:
        """Call ``listener`` for every announcement of ``lane``; before `start` only."""

    def start(self) -> None:
        """Begin to call the listeners."""

    def announce(self, lane: str) -> None:
        """Say that ``lane`` has new work: after the commit; never waits, never raises."""

    def hear(self, name: str, listener: Callable[[bytes], None]) -> None:
        """Call ``listener`` with the content of each signal ``name`` of another hub; before `start` only."""

    def signal(self, name: str, content: bytes = b"") -> None:
        """Tell the other hubs now; never waits, never raises, may be lost, and of many at once only the last."""

    async def stop(self) -> None:
        """Call no listener any more and wait, within bounds, for the looks under way."""

    async def check(self) -> str | None:
        """Give None when announcements are carried, else the reason why not."""
