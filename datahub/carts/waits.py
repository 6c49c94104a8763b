"""What a cart waits for, since when, and when it is seen to again: what its record tells an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from datahub.archive.cache import KNOWN, NEW
from datahub.carts.fetch_tables import Group

__all__ = ["ARCHIVE", "FOR_ROOM", "RETRY", "ROOM", "SLOT", "TAPE", "TURN", "Wait", "read", "wait_of"]

SLOT: Final = "slot"
ARCHIVE: Final = "archive"
TAPE: Final = "tape"
TURN: Final = "turn"
"""Until the carts that asked for room before it have theirs."""
ROOM: Final = "room"
RETRY: Final = "retry"


class Wait(msgspec.Struct, frozen=True, omit_defaults=True):
    """One wait; times are milliseconds since 1970, ``reason`` is the last fault."""

    what: str
    since: int
    next_at: int | None = None
    reason: str | None = None

    def written(self) -> str:
        """As the column keeps it."""
        return msgspec.json.encode(self).decode()


FOR_ROOM: Final = tuple(f'{{"what":"{what}",' for what in (TURN, ROOM))
"""How the column begins of a cart that waits for room."""


def read(text: str | None) -> Wait | None:
    """What the column says."""
    return None if text is None else msgspec.json.decode(text, type=Wait)


def wait_of(
    found: Mapping[str, Group], before: Wait, now: int, next_at: int | None, wall: Callable[[int], int]
) -> Wait:
    """What a cart waits for most that has these files left: what somebody has to mend, then what takes longest.

    ``before`` is what it waited for until now, ``wall`` makes a time of the hub's clock one for people. That it waits
    for room is told by who refused it, `datahub.carts.room`, and holds, whatever its other files meet, until it has it.
    """
    if before.what in (TURN, ROOM) and KNOWN in found and NEW not in found:
        return Wait(before.what, before.since, next_at)
    failing = [each for each in found.values() if each.failing_since is not None]
    if failing:
        worst = min(failing, key=lambda each: each.failing_since or 0)
        return Wait(RETRY, wall(worst.failing_since or 0), next_at, worst.error)
    staging = [each.staging_since for each in found.values() if each.staging_since is not None]
    if staging:
        return Wait(TAPE, wall(min(staging)), next_at)
    return Wait(ARCHIVE, before.since if before.what == ARCHIVE else now, next_at)
