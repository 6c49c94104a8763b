"""Times as callers write them."""

from __future__ import annotations

from datetime import UTC, datetime

from datahub.errors import InvalidRequest

__all__ = ["parse_time"]


def parse_time(field: str, text: str) -> int | None:
    """Milliseconds since 1970 of an RFC 3339 time such as ``2026-03-01T09:30:00Z``; None for no text."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        message = f"{field} {text[:100]!r} is no time such as 2026-03-01T09:30:00Z"
        raise InvalidRequest(message, field=field) from None
