"""What happened: one table that is audit trail, timeline of a record and live feed at once."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

__all__ = ["HUB", "Actor", "Event", "Happening"]


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who made it happen: ``by`` is token, anonymous, stager or hub."""

    name: str
    by: str
    address: str = ""
    request: str = ""


HUB = Actor("hub", "hub")
"""The hub itself, going on with its work."""


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that is about to be written: a record of ``kind`` goes from status ``origin`` to status ``to``.

    ``size`` is what it counts for there, ``before`` what it counted for in ``origin``, in bytes. Its type is made
    of the kind and ``what``, by default the new status: ``transfer.staging``.
    """

    kind: str
    subject: str
    submitter: str
    to: str
    origin: str | None = None
    reason: str | None = None
    size: int = 0
    before: int = 0
    what: str = ""

    @property
    def type(self) -> str:
        """What the event is called."""
        return f"{self.kind}.{self.what or self.to.lower()}"


class Event(msgspec.Struct, frozen=True, omit_defaults=True, rename={"origin": "from"}):
    """An event as it is told; ``position`` grows in the order in which changes were committed."""

    position: int
    time: str
    type: str
    subject: str
    submitter: str
    actor: Actor
    origin: str | None = None
    to: str | None = None
    reason: str | None = None
