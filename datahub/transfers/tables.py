"""The rows of transfers, and the only SQL about them; its statements are built once, see `datahub.work.ledger`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    String,
    Text,
    bindparam,
    delete,
    select,
    update,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT

from datahub.errors import Superseded
from datahub.events import HUB, Actor, Happening
from datahub.events.tables import append
from datahub.store.dialect import insert_if_absent
from datahub.store.listing import Listing
from datahub.store.schema import table
from datahub.transfers.model import FINAL, Filter, Place, Status, Transfer
from datahub.transfers.movers import Delivery
from datahub.work.tables import work

__all__ = [
    "add",
    "begin_moving",
    "begin_staging",
    "change",
    "expired",
    "find",
    "find_many",
    "find_place",
    "find_places",
    "gets_on",
    "lately_delivered",
    "note",
    "oldest",
    "overdue",
    "remove",
    "transfer",
    "unchecked",
    "unfinished",
]

KIND = "transfer"
AS_JSON = ("checksums", "delivery", "fts_details")
GONE = "DELETED"
PATIENCE = 10 * 60_000
"""Milliseconds for which nobody asks whether a transfer gets on."""
STANDS_STILL = ("retry", "stuck")
"""Events of a transfer that does not get on."""

transfer = table(
    "transfer",
    Column("id", String(36), primary_key=True),
    Column("product_id", Text, nullable=False),
    Column("destination_path", Text, nullable=False),
    Column("destination_key", String(32), nullable=False),
    Column("submitter", String(190), nullable=False),
    Column("overwrite", Boolean, nullable=False),
    Column("checksum", String(80)),
    Column("priority", Integer, nullable=False),
    Column("deadline", BigInteger),
    Column("status", String(16), nullable=False),
    Column("detailed_status", Text),
    Column("stager_path", Text),
    Column("stager_hostname", Text),
    Column("stager_status", Text),
    Column("staging_attempt", String(40)),
    Column("staging_report", String(64)),
    Column("files", BigInteger),
    Column("size", BigInteger),
    Column("checksums", Text),
    Column("delivery", Text),
    Column("fts_attempt", String(80)),
    Column("fts_jobid", String(255)),
    Column("fts_details", Text().with_variant(MEDIUMTEXT(), "mysql")),
    Column("attempts", Integer, nullable=False),
    Column("failing_since", BigInteger),
    Column("time_submitted", BigInteger, nullable=False),
    Column("time_staging", BigInteger),
    Column("time_staging_finished", BigInteger),
    Column("time_transferring", BigInteger),
    Column("time_error", BigInteger),
    Column("time_success", BigInteger),
    Column("time_cancelled", BigInteger),
    Column("since", BigInteger),
    Column("check_at", BigInteger),
    Column("stuck_at", BigInteger),
    Column("late_since", BigInteger),
)
ORDER = (transfer.c.time_submitted, transfer.c.id)
FILTERS = ("submitter", "status", "destination_key")
Index("transfer_time", *ORDER)
for _name in FILTERS:
    Index(f"transfer_{_name}", transfer.c[_name], *ORDER)
Index("transfer_submitter_status", transfer.c.submitter, transfer.c.status, *ORDER)
due = transfer.c.deadline.isnot(None)
Index("transfer_deadline", transfer.c.deadline, postgresql_where=due, sqlite_where=due)
for _name in ("check_at", "stuck_at"):
    _given = transfer.c[_name].isnot(None)
    Index(f"transfer_{_name}", transfer.c[_name], postgresql_where=_given, sqlite_where=_given)

_list = Listing(transfer, "time_submitted")
_one = select(transfer).where(transfer.c.id == bindparam("number"))
_locked = _one.with_for_update()
_places = select(work.c.subject, work.c.lane, work.c.state, work.c.due, work.c.attempt).where(
    work.c.lane.in_(bindparam("lanes", expanding=True)), work.c.subject.in_(bindparam("numbers", expanding=True))
)
_among = transfer.c.id.in_(bindparam("numbers", expanding=True))
_all = select(transfer).where(_among).with_for_update()
_move_on = update(transfer).where(_among)
_change = update(transfer).where(transfer.c.id == bindparam("number"), transfer.c.status == bindparam("old"))


def key_of(destination: str) -> str:
    """What stands for a destination in an index: PostgreSQL's and MariaDB's take no long texts."""
    return sha256(destination.rstrip("/").encode()).hexdigest()[:32]


def add(connection: Connection, new: Transfer, actor: Actor) -> bool:
    """Insert a transfer that was just submitted; False when it is there, from a commit whose answer was lost."""
    row = {**_as_row(new), "destination_key": key_of(new.destination_path)}
    if not insert_if_absent(connection, transfer, row):
        return False
    append(connection, [_happening(new, new.status)], actor, new.time_submitted)
    return True


def find(connection: Connection, number: str, *, lock: bool = False) -> Transfer | None:
    """The transfer with id ``number``."""
    row = connection.execute(_locked if lock else _one, {"number": number}).first()
    return _from_row(row) if row else None


def find_many(connection: Connection, wanted: Filter) -> list[Transfer]:
    """The transfers that ``wanted`` asks for, in its order."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.stuck:
        conditions.append(transfer.c.stuck_at.isnot(None))
    if wanted.destination is not None:
        conditions.append(transfer.c.destination_key == key_of(wanted.destination))
    return [_from_row(row) for row in _list.find(connection, wanted, *conditions, sorts=wanted.stuck)]


def find_place(connection: Connection, lanes: Sequence[str], number: str) -> Place | None:
    """Where the transfer waits or runs, None when nothing is to be done for it."""
    return find_places(connection, lanes, [number]).get(number)


def find_places(connection: Connection, lanes: Sequence[str], numbers: Sequence[str]) -> dict[str, Place]:
    """Where transfers wait or run, by id."""
    rows = connection.execute(_places, {"lanes": lanes, "numbers": numbers})
    return {row.subject: Place(row.lane, row.state, row.due, row.attempt) for row in rows}


def overdue(connection: Connection, now: int, limit: int) -> list[str]:
    """Transfers whose deadline has passed before they were final."""
    late = (transfer.c.deadline <= now, transfer.c.status.not_in([*FINAL, Status.CANCELLING]))
    return list(connection.execute(select(transfer.c.id).where(*late).limit(limit)).scalars())


def unfinished(connection: Connection, numbers: Sequence[str]) -> set[str]:
    """Those of ``numbers`` that are transfers which are not final."""
    wanted = select(transfer.c.id).where(transfer.c.id.in_(numbers), transfer.c.status.not_in(FINAL))
    return set(connection.execute(wanted).scalars())


def unchecked(connection: Connection, now: int, limit: int) -> list[Transfer]:
    """Transfers that were to be looked at by ``now``, to see whether they get on."""
    wanted = select(transfer).where(transfer.c.check_at <= now).order_by(transfer.c.check_at).limit(limit)
    return [_from_row(row) for row in connection.execute(wanted)]


def lately_delivered(connection: Connection, destination: str | None, limit: int) -> list[Transfer]:
    """The transfers submitted last that have ended well, at ``destination``, or anywhere."""
    where = [transfer.c.status == Status.SUCCESS]
    if destination is not None:
        # The status is looked at behind the index of destinations: of a status there are too many.
        where = [transfer.c.destination_key == key_of(destination), transfer.c.status + "" == Status.SUCCESS]
    newest = select(transfer).where(*where).order_by(*(column.desc() for column in ORDER)).limit(limit)
    return [_from_row(row) for row in connection.execute(newest)]


def oldest(connection: Connection) -> dict[str, int]:
    """When the oldest transfer of each status that is not final was submitted."""
    return _list.oldest(connection, (status for status in Status if not status.final))


def expired(connection: Connection, before: int, limit: int) -> list[str]:
    """Final transfers that were submitted before ``before``, the oldest first."""
    old = (transfer.c.time_submitted < before, transfer.c.status.in_(FINAL))
    return list(connection.execute(select(transfer.c.id).where(*old).order_by(*ORDER).limit(limit)).scalars())


def remove(connection: Connection, numbers: Sequence[str], now: int) -> None:
    """Remove records; that they went is an event, too."""
    rows = [_from_row(row) for row in connection.execute(_all, {"numbers": numbers})]
    connection.execute(delete(transfer).where(transfer.c.id.in_(numbers)))
    gone = [Happening(KIND, each.id, each.submitter, GONE, each.status, before=each.size or 0) for each in rows]
    append(connection, gone, HUB, now)


def begin_staging(connection: Connection, numbers: Sequence[str], now: int) -> dict[str, Transfer]:
    """Move submitted transfers on to STAGING; all of ``numbers`` as they are now."""
    return _begin(connection, numbers, now, Status.SUBMITTED, status=Status.STAGING, time_staging=now)


def begin_moving(connection: Connection, numbers: Sequence[str], now: int) -> dict[str, Transfer]:
    """Move staged transfers on to TRANSFERRING; all of ``numbers`` as they are now."""
    return _begin(connection, numbers, now, Status.STAGING, status=Status.TRANSFERRING, time_transferring=now)


def _begin(
    connection: Connection, numbers: Sequence[str], now: int, old: Status, **changes: Any
) -> dict[str, Transfer]:
    rows = connection.execute(_all, {"numbers": numbers})
    found = {row.id: _from_row(row) for row in rows}
    moving = [each for each in found.values() if each.status is old]
    # What begins again after a fault has not got on by that.
    for some, news in (
        ([each for each in moving if each.failing_since is None], {**changes, **gets_on(now)}),
        ([each for each in moving if each.failing_since is not None], changes),
    ):
        if some:
            connection.execute(_move_on, {"numbers": [each.id for each in some], **news})
            moved = [replace(each, **news) for each in some]
            append(connection, [_happening(each, old) for each in moved], HUB, now)
            found |= {each.id: each for each in moved}
    return found


def gets_on(now: int) -> dict[str, int | None]:
    """What is written of a transfer that gets on at ``now``."""
    return {"since": now, "check_at": now + PATIENCE, "stuck_at": None}


def change(
    connection: Connection, transfer_: Transfer, now: int, *, actor: Actor = HUB, what: str = "", **changes: Any
) -> None:
    """Change a transfer that is still in the state it was read in; raises `Superseded` when it is not any more.

    A change of the state, or one that has a name of its own (``what``), is an event.
    """
    mine = {"number": transfer_.id, "old": transfer_.status}
    told_of = bool(what) or "status" in changes
    if told_of and what not in STANDS_STILL:
        final = Status(changes.get("status", transfer_.status)).final
        changes |= {"check_at": None, "stuck_at": None} if final else gets_on(now)
    if connection.execute(_change, {**mine, **_encoded(changes)}).rowcount != 1:
        raise Superseded(f"transfer {transfer_.id} is not {transfer_.status} any more")
    if told_of:
        after = replace(transfer_, **changes)
        told = replace(_happening(after, transfer_.status), before=transfer_.size or 0, what=what)
        append(connection, [told], actor, now)


def note(connection: Connection, number: str, **changes: Any) -> None:
    """Write down what is no change of state, and true in any."""
    connection.execute(update(transfer).where(transfer.c.id == number).values(**_encoded(changes)))


def _happening(now: Transfer, origin: Status) -> Happening:
    size = now.size or 0
    came_from = None if now.status is origin and now.status is Status.SUBMITTED else origin
    return Happening(KIND, now.id, now.submitter, now.status, came_from, now.detailed_status, size=size, before=size)


def _encoded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _json(value) if name in AS_JSON else value for name, value in values.items()}


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _as_row(value: Transfer) -> dict[str, Any]:
    return _encoded({name: getattr(value, name) for name in Transfer.__slots__})


def _from_row(row: Any) -> Transfer:
    values = dict(zip(row._fields, row, strict=True))
    del values["destination_key"]
    values["status"] = Status(row.status)
    values["checksums"] = msgspec.json.decode(row.checksums, type=dict[str, str]) if row.checksums else None
    values["fts_details"] = msgspec.json.decode(row.fts_details) if row.fts_details else None
    values["delivery"] = msgspec.json.decode(row.delivery, type=Delivery) if row.delivery else None
    return Transfer(**values)
