"""Parts of what does not change: conditions and ranges of RFC 9110, sections 13 and 14."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Span", "Unsatisfiable", "matches", "span"]

ONE = re.compile(r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})", re.ASCII | re.IGNORECASE)


class Unsatisfiable(Exception):
    """The range lies behind the end."""


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from ``first`` up to, but without, ``end``, of ``size`` in all."""

    first: int
    end: int
    size: int

    @property
    def content_range(self) -> str:
        """The header's value."""
        return f"bytes {self.first}-{self.end - 1}/{self.size}"


def span(wanted: str | None, size: int) -> Span | None:
    """What a Range header asks of ``size`` bytes; None for the whole: no range, several, or none that is known.

    Raises `Unsatisfiable`.
    """
    found = ONE.fullmatch(wanted.strip()) if wanted else None
    if found is None:
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:
        return _checked(max(0, size - int(last)), size, size)
    if last and int(last) < int(first):
        return None
    return _checked(int(first), min(size, int(last) + 1) if last else size, size)


def _checked(first: int, end: int, size: int) -> Span:
    if first >= end:
        raise Unsatisfiable
    return Span(first, end, size)


def matches(condition: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names the entity tag ``tag`` (in its quotes), which has no comma in it."""
    if condition is None:
        return False
    named = [each.strip() for each in condition.split(",")]
    return "*" in named or tag in (each.removeprefix("W/") for each in named)
