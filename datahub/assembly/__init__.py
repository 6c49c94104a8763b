"""How each capability is put together, a module for each: what it is given, and what it has to offer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datahub.config import Config
from datahub.events.feed import Feed
from datahub.files.reserve import Reserve
from datahub.health.events import Summarise
from datahub.health.routes import Check
from datahub.kit.clock import HubClock
from datahub.kit.services import Part
from datahub.kit.threads import Pool
from datahub.store import Store
from datahub.web.app import App
from datahub.work.lane import Floor, Lane, Step

__all__ = ["PACIFICA", "Capability", "Chore", "House", "milliseconds"]

PACIFICA = "pacifica+"
"""How the URL of an archive begins that is a Pacifica archive interface; what follows is its own."""


@dataclass(frozen=True, slots=True)
class House:
    """What all capabilities stand on."""

    config: Config
    reactor: Any
    clock: HubClock
    store: Store
    disk: Pool
    """For what may take long: staging, digests, copies."""
    serve: Pool
    """For what somebody waits for, piece by piece: it never stands behind the former."""
    reserve: Reserve
    feed: Feed
    floor: Floor


@dataclass(frozen=True, slots=True)
class Chore:
    """What is to be done again and again: its name in the log, how often in seconds, and how."""

    name: str
    every: float
    work: Callable[[], Awaitable[object]]


def ignored(_: Lane) -> None:
    """Nobody asks for the lane."""


@dataclass(frozen=True, slots=True)
class Capability:
    """What a capability has to offer; all but its operations may be missing."""

    app: App
    rest: App | None = None
    """What answers at the root itself, and at all that no app claims."""
    steps: Sequence[Step] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)
    """What is to be started before work begins, in this order, under names for the log."""
    chores: Sequence[Chore] = ()
    take: Callable[[Lane], None] = ignored
    """Told of each of its lanes in which this daemon works."""
    summarise: Summarise | None = None
    checks: Mapping[str, Check] = field(default_factory=dict)
    """What `/health` tells of it."""


def milliseconds(seconds: float) -> int:
    """What the ledger and the records count in."""
    return int(seconds * 1000)
