"""Which records of a list are wanted: what routes read of a query, and tables find rows by."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Filter"]


@dataclass(frozen=True, slots=True)
class Filter:
    """At most ``limit`` records, the newest first or the oldest, behind time and id of the last one seen.

    ``since`` and ``until`` are milliseconds since 1970; no ``statuses`` are all of them.
    """

    limit: int
    newest_first: bool = True
    submitter: str | None = None
    statuses: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    behind: tuple[int, str] | None = None
