"""Reasons of FTS's that nobody has classified: counted, and the last one kept, for who can classify it."""

from __future__ import annotations

import re

import msgspec

from datahub.events.summary import Summary
from datahub.kit.clock import HubClock, rfc3339

__all__ = ["Reasons", "TransferSummary", "Unclassified"]

PLACES = re.compile(r"\S*/\S*")
"""URLs, paths and names of people, which are not for everybody who may read a summary."""


class Unclassified(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many there were since this hub began; the ``last`` one's words without any places, and when that was."""

    count: int
    last: str | None = None
    time: str | None = None


class TransferSummary(Summary, frozen=True):
    """The transfers by status, and what FTS said that nobody has classified."""

    unknown_reasons: Unclassified


class Reasons:
    """The tally of one hub."""

    def __init__(self, clock: HubClock) -> None:
        self._clock = clock
        self.found = Unclassified(0)

    def note(self, reason: str) -> None:
        """Count a reason."""
        words = PLACES.sub("…", reason)
        self.found = Unclassified(self.found.count + 1, words, rfc3339(self._clock.wall()))

    def beside(self, summary: Summary) -> TransferSummary:
        """The summary, with them."""
        return TransferSummary(summary.now, summary.last_hour, summary.last_day, self.found)
