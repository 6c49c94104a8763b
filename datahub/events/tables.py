"""The rows of events, their numbering in commit order, and what is counted from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    String,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from datahub.events import Actor, Event, Happening
from datahub.kit.clock import rfc3339
from datahub.store.dialect import Direct, Upsert, insert_if_absent
from datahub.store.schema import BigId, table
from datahub.store.settings import setting

__all__ = ["Wanted", "add_up", "any_news", "append", "counts", "event", "find", "forget", "last", "number", "recent"]

event = table(
    "event",
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("position", BigInteger),
    Column("time", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("type", String(40), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("submitter", String(190), nullable=False),
    Column("actor", Text, nullable=False),
    Column("origin", String(16)),
    Column("to", String(16), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("before", BigInteger, nullable=False),
    Column("reason", Text),
)
unnumbered = event.c.position.is_(None)
Index("event_position", event.c.position)
Index("event_unnumbered", event.c.position, event.c.id, postgresql_where=unnumbered, sqlite_where=unnumbered)
Index("event_subject", event.c.subject, event.c.position)
Index("event_submitter", event.c.submitter, event.c.position)
Index("event_type", event.c.type, event.c.position)
Index("event_time", event.c.time)

tally = table(
    "tally",
    Column("kind", String(16), primary_key=True),
    Column("status", String(16), primary_key=True),
    Column("bucket", BigInteger, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
)

BATCH = 1000
NUMBERED, COUNTED = "events.numbered", "events.counted"
NOW = 0
"""The bucket of what is in a status now; the others are ends of spans of `SPAN` milliseconds."""
SPAN = 5 * 60_000
REMEMBERED = 25 * 3_600_000
"""Milliseconds for which spans are kept."""


class Wanted(msgspec.Struct, frozen=True):
    """Which events: behind a position, of a type, a record, a submitter (None: of everybody)."""

    after: int = 0
    type: str | None = None
    subject: str | None = None
    submitter: str | None = None


def append(connection: Connection, happenings: Sequence[Happening], actor: Actor, now: int) -> None:
    """Write events in the transaction of the change they tell of; ``now`` in ms since 1970."""
    if not happenings:
        return
    told = msgspec.json.encode(actor).decode()
    rows = [
        {
            "time": now,
            "kind": each.kind,
            "type": each.type,
            "subject": each.subject,
            "submitter": each.submitter,
            "actor": told,
            "origin": each.origin,
            "to": each.to,
            "size": each.size,
            "before": each.before,
            "reason": each.reason,
        }
        for each in happenings
    ]
    (_append_on_sqlite if connection.dialect.name == "sqlite" else _append).many(connection, rows)


_append = Direct(insert(event))
# SQLite's one writer commits in the order of its ids, so there an event has its position at once.
_append_on_sqlite = Direct(
    insert(event).values(
        position=literal_column("coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0) + 1"),
        **{name: bindparam(name) for name in event.c.keys() if name not in ("id", "position")},  # noqa: SIM118 - columns
    )
)


def number(connection: Connection) -> int:
    """Give positions to committed events that have none, and count those that have: at most `BATCH`; how many.

    One transaction at a time does so, under the lock of a row. A sequence of the database would give a long
    transaction an early number: followers that have passed it would never see its events.
    """
    last_position = _locked(connection, NUMBERED)
    if connection.dialect.name == "sqlite":
        return _count_new(connection)
    found = connection.execute(select(event.c.id).where(unnumbered).order_by(event.c.id).limit(BATCH)).scalars().all()
    if found:
        change = update(event).where(event.c.id == bindparam("number")).values(position=bindparam("new"))
        numbered = [{"number": number, "new": last_position + n} for n, number in enumerate(found, 1)]
        connection.execute(change, numbered)
        _keep(connection, NUMBERED, last_position + len(found))
    return max(len(found), _count_new(connection))


def _locked(connection: Connection, name: str) -> int:
    insert_if_absent(connection, setting, {"name": name, "value": "0"})
    wanted = select(setting.c.value).where(setting.c.name == name).with_for_update()
    return int(connection.execute(wanted).scalar_one())


def _keep(connection: Connection, name: str, value: int) -> None:
    connection.execute(update(setting).where(setting.c.name == name).values(value=str(value)))


def _count_new(connection: Connection) -> int:
    """Add events that were not counted yet to the tallies, so that a summary never scans."""
    counted = _locked(connection, COUNTED)
    wanted = select(event).where(event.c.position > counted).order_by(event.c.position).limit(BATCH)
    found = connection.execute(wanted).all()
    changes: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for row in found:
        _add(changes, (row.kind, row.to, NOW), 1, row.size)
        if row.origin is not None:
            _add(changes, (row.kind, row.origin, NOW), -1, -row.before)
        if row.origin != row.to:
            _add(changes, (row.kind, row.to, _span(row.time)), 1, row.size)
    _write_down(connection, changes)
    if found:
        _keep(connection, COUNTED, found[-1].position)
    return len(found)


def add_up(connection: Connection, kind: str, status: str, count: int, size: int, now: int) -> None:
    """Count records that came into ``status`` at ``now`` without an event of each."""
    changes: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for bucket in (NOW, _span(now)):
        _add(changes, (kind, status, bucket), count, size)
    _write_down(connection, changes)


def _span(time: int) -> int:
    return time // SPAN * SPAN + SPAN


def _write_down(connection: Connection, changes: Mapping[tuple[str, str, int], Sequence[int]]) -> None:
    # In one order everywhere, so that two that count never wait for each other.
    for (kind, status, bucket), (count, size) in sorted(changes.items()):
        first = {"kind": kind, "status": status, "bucket": bucket, "count": count, "size": size}
        _add_up(connection, {**first, "more": count, "larger": size})


_add_up = Upsert(tally, count=tally.c["count"] + bindparam("more"), size=tally.c.size + bindparam("larger"))


def _add(changes: dict[tuple[str, str, int], list[int]], key: tuple[str, str, int], count: int, size: int) -> None:
    changes[key][0] += count
    changes[key][1] += size


def find(connection: Connection, wanted: Wanted, limit: int) -> list[Event]:
    """The first ``limit`` events that are ``wanted``, in order."""
    conditions = [event.c.position > wanted.after]
    for column, value in (
        (event.c.type, wanted.type),
        (event.c.subject, wanted.subject),
        (event.c.submitter, wanted.submitter),
    ):
        if value is not None:
            conditions.append(column == value)
    rows = connection.execute(select(event).where(*conditions).order_by(event.c.position).limit(limit))
    return [_event(row) for row in rows]


def _event(row: Any) -> Event:
    actor = msgspec.json.decode(row.actor, type=Actor)
    return Event(
        row.position, rfc3339(row.time), row.type, row.subject, row.submitter, actor, row.origin, row.to, row.reason
    )


def any_news(connection: Connection, after: int) -> bool:
    """Whether there are events behind ``after``, or such as have no position yet."""
    new = select(event.c.id).where(event.c.position > after).limit(1)
    waiting = select(event.c.id).where(unnumbered).limit(1)
    return any(connection.execute(each).first() is not None for each in (new, waiting))


def last(connection: Connection) -> int:
    """The highest position given so far."""
    return int(connection.execute(select(func.max(event.c.position))).scalar() or 0)


def counts(connection: Connection, kind: str) -> dict[str, tuple[int, int]]:
    """How many records of ``kind`` are in each status now, and their bytes."""
    columns = (tally.c.status, tally.c["count"], tally.c.size)
    rows = connection.execute(
        select(*columns).where(tally.c.kind == kind, tally.c.bucket == NOW, tally.c["count"] != 0)
    )
    return {status: (count, size) for status, count, size in rows}


def recent(connection: Connection, kind: str, since: int) -> dict[str, tuple[int, int]]:
    """How many records of ``kind`` came into each status since ``since`` (ms, to `SPAN`), and their bytes."""
    sums = (tally.c.status, func.sum(tally.c["count"]), func.sum(tally.c.size))
    wanted = select(*sums).where(tally.c.kind == kind, tally.c.bucket > since).group_by(tally.c.status)
    return {status: (int(count), int(size)) for status, count, size in connection.execute(wanted)}


def forget(connection: Connection, before: int, now: int, limit: int = BATCH) -> int:
    """Remove up to ``limit`` events from before ``before``, and the spans nobody asks for any more; how many events."""
    connection.execute(delete(tally).where(tally.c.bucket != NOW, tally.c.bucket < now - REMEMBERED))
    old = select(event.c.id).where(event.c.time < before, event.c.position.isnot(None)).limit(limit)
    found = connection.execute(old).scalars().all()
    if found:
        connection.execute(delete(event).where(event.c.id.in_(found)))
    return len(found)
