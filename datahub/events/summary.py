"""How many records of a kind there are, from tallies that are kept as events are numbered: nothing is scanned."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection

from datahub.events.tables import counts, recent
from datahub.kit.clock import rfc3339

__all__ = ["Summary", "Tally", "summarise"]

HOUR = 3_600_000
DAY = 24 * HOUR


class Tally(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many records, and their bytes; ``oldest`` says since when, where something waits."""

    count: int
    bytes: int
    oldest: str | None = None


class Summary(msgspec.Struct, frozen=True):
    """The records of one kind by status, and how many came into which in the last hour and day, to five minutes."""

    now: dict[str, Tally]
    last_hour: dict[str, Tally]
    last_day: dict[str, Tally]


def summarise(connection: Connection, kind: str, now: int, oldest: Mapping[str, int]) -> Summary:
    """Sum up ``kind`` at ``now`` (ms since 1970); ``oldest`` has the time of the oldest record in a status."""
    present = {
        status: Tally(count, size, rfc3339(oldest[status]) if status in oldest else None)
        for status, (count, size) in counts(connection, kind).items()
    }
    lately = (
        {status: Tally(*each) for status, each in recent(connection, kind, now - span).items()} for span in (HOUR, DAY)
    )
    return Summary(present, *lately)
