"""What is to be done: rows in a ledger, claimed by lanes, settled with the records they change.

Truth is in the tables; a queue only says "look". See docs/architecture.md for the walk of one item.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

__all__ = ["Done", "Fail", "Item", "Next", "Outcome", "Park", "Record", "Retry"]

Record = Callable[[Connection], None]
"""What a step writes about its subject, in the transaction that settles the item."""


def nothing(_: Connection) -> None:
    """A step that changes no record."""


@dataclass(frozen=True, slots=True)
class Item:
    """One claimed piece of work: ``subject`` names the record it is about."""

    id: int
    lane: str
    subject: str
    submitter: str
    attempt: int
    note: str | None
    record: Any = None
    """What the lane's ``begin`` read about the subject in the transaction of the claim."""

    @property
    def label(self) -> str:
        """A name that no other attempt has: outside effects are named after it."""
        return f"{self.id}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class Done:
    """The pipeline ends here, as it should."""

    record: Record = nothing


@dataclass(frozen=True, slots=True)
class Fail:
    """The pipeline ends here with an error that the record tells."""

    record: Record


@dataclass(frozen=True, slots=True)
class Next:
    """The work goes on in ``lane``, at ``cost`` (in 1/1000 shares) for its submitter."""

    lane: str
    record: Record = nothing
    cost: int = 1000


@dataclass(frozen=True, slots=True)
class Retry:
    """The same step again, ``after`` milliseconds from now."""

    after: int
    record: Record = nothing


@dataclass(frozen=True, slots=True)
class Park:
    """Wait for the outside, with the slot but without an owner, until ``until`` (ms of the hub's clock) at most."""

    until: int
    record: Record = nothing


Outcome = Done | Fail | Next | Retry | Park
