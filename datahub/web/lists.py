"""Lists: one page at a time, in an order that stays while rows come and go."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec

from datahub.errors import InvalidRequest
from datahub.kit.filters import Filter
from datahub.kit.sizes import parse_duration
from datahub.kit.times import parse_time
from datahub.web.answer import Answer
from datahub.web.app import Call

__all__ = [
    "LARGEST_PAGE",
    "LONGEST_WAIT",
    "Cursor",
    "ListQuery",
    "Look",
    "page_of",
    "parse_wait",
    "read_cursor",
    "read_filter",
    "read_statuses",
]

F = TypeVar("F", bound=Filter)
LARGEST_PAGE = 1000
LONGEST_WAIT = 600.0


class ListQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters that every list has; ``submitter`` is me, a name, or * for all."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_PAGE)] = 100
    after: str = ""
    status: str = ""
    submitter: str = "me"
    since: str = ""
    until: str = ""
    order: Literal["new", "old"] = "new"


class Look(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one record is asked for: at once, ``wait`` until it is final (or so long), ``watch`` each change."""

    wait: str = ""
    watch: bool = False


class Cursor(NamedTuple):
    """The last row that was seen: the next page begins behind it."""

    time: int
    id: str


def read_filter(kind: type[F], query: ListQuery, submitter: str | None, known: type[StrEnum]) -> F:
    """What a list is asked for, and one record more, which tells whether there is a next page.

    ``known`` are the statuses there are. Raises `InvalidRequest`.
    """
    return kind(
        limit=query.limit + 1,
        newest_first=query.order == "new",
        submitter=submitter,
        statuses=read_statuses(query.status, known),
        since=parse_time("since", query.since),
        until=parse_time("until", query.until),
        behind=read_cursor(query.after),
    )


def read_statuses(text: str, known: type[StrEnum]) -> tuple[str, ...]:
    """The statuses in a text such as ``error,ready``, in either case; raises `InvalidRequest`."""
    names = {each.lower(): each for each in known}
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    for each in wanted:
        if each.lower() not in names:
            raise InvalidRequest(f"status {each[:40]!r} is none of {', '.join(known)}", field="status")
    return tuple(dict.fromkeys(names[each.lower()] for each in wanted))


def page_of(call: Call, items: Sequence[Any], last: Cursor | None) -> Answer:
    """The answer: items, and the cursor of the next page, None when there is none (RFC 8288 for the link)."""
    cursor = last and _write_cursor(last)
    headers = {}
    if cursor:
        query = [(name, value) for name, value in parse_qsl(call.query, keep_blank_values=True) if name != "after"]
        headers["Link"] = f'<{call.path}?{urlencode([*query, ("after", cursor)])}>; rel="next"'
    return Answer(200, {"items": items, "next": cursor}, headers)


def _write_cursor(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((cursor.time, cursor.id))).decode().rstrip("=")


def read_cursor(text: str) -> Cursor | None:
    """Read what a list gave as ``next``; None for "". Raises `InvalidRequest`."""
    if not text:
        return None
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return Cursor(*msgspec.json.decode(decoded, type=tuple[int, str]))
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        message = f"after {text[:100]!r} is no cursor: take it from 'next' of the page before"
        raise InvalidRequest(message, field="after") from None


def parse_wait(text: str) -> float:
    """Seconds of ``wait``, such as ``60s``; at most `LONGEST_WAIT`."""
    if not text:
        return 0.0
    try:
        # A bare number is seconds, and "10m" ten minutes, as in URLs everywhere.
        spelled = f"{text} s" if text.isdecimal() else re.sub(r"(?<=[0-9])m$", " min", text)
        return min(parse_duration(spelled), LONGEST_WAIT)
    except ValueError:
        raise InvalidRequest(f"wait {text[:100]!r} is no time such as 60s", field="wait") from None
