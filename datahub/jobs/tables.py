"""The rows of jobs, and the only SQL about them; its statements are built once, see `datahub.work.ledger`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    String,
    Text,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    update,
)

from datahub.errors import Superseded
from datahub.events import HUB, Actor, Happening
from datahub.events.tables import append
from datahub.jobs.model import Filter, Job, Spec, Status
from datahub.processes.runner import Written
from datahub.store.dialect import insert_if_absent
from datahub.store.listing import Listing
from datahub.store.schema import LongText, table
from datahub.work.tables import RUNNING, work

__all__ = [
    "KIND",
    "add",
    "begin",
    "change",
    "expired",
    "find",
    "find_many",
    "find_spec",
    "job",
    "oldest",
    "queued",
    "remove",
    "surplus",
    "which_of",
]

KIND = "job"
GONE = "DELETED"

job = table(
    "job",
    Column("id", String(36), primary_key=True),
    Column("submitter", String(190), nullable=False),
    Column("name", String(190)),
    Column("status", String(16), nullable=False),
    Column("command", LongText, nullable=False),
    Column("shell", Boolean, nullable=False),
    Column("spec", LongText, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text),
    Column("node", String(120)),
    Column("process", String(80)),
    Column("exit_code", Integer),
    Column("signal", String(40)),
    Column("usage", Text),
    Column("output", Text),
    Column("time_created", BigInteger, nullable=False),
    Column("time_requested", BigInteger),
    Column("time_started", BigInteger),
    Column("time_stopped", BigInteger),
)
ORDER = (job.c.time_created, job.c.id)
Index("job_time", *ORDER)
for _name in ("submitter", "status", "name"):
    Index(f"job_{_name}", job.c[_name], *ORDER)
Index("job_submitter_status", job.c.submitter, job.c.status, *ORDER)
Index("job_stopped", job.c.status, job.c.time_stopped)

_short = [literal_column("NULL").label("spec") if each.name == "spec" else each for each in job.c]
_list = Listing(job, "time_created", _short)
_one = select(*_short).where(job.c.id == bindparam("number"))
_spec = select(job.c.spec).where(job.c.id == bindparam("number"))
_locked = _one.with_for_update()
_among = job.c.id.in_(bindparam("numbers", expanding=True))
_claimed = select(job).where(_among).with_for_update()
_fresh = update(job).where(_among)
_change = update(job).where(job.c.id == bindparam("number"), job.c.status == bindparam("old"))
_queued = select(work.c.subject).where(
    work.c.lane == bindparam("lane"), work.c.subject.in_(bindparam("numbers", expanding=True)), work.c.state != RUNNING
)
_remove = delete(job).where(_among)


def add(connection: Connection, new: Job, actor: Actor) -> bool:
    """Insert a job; False when its id is taken."""
    row = _encoded({name: getattr(new, name) for name in Job.__slots__})
    if not insert_if_absent(connection, job, row):
        return False
    append(connection, [Happening(KIND, new.id, new.submitter, new.status)], actor, new.time_created)
    return True


def find(connection: Connection, number: str, *, lock: bool = False) -> Job | None:
    """The job with id ``number``, without its spec."""
    row = connection.execute(_locked if lock else _one, {"number": number}).first()
    return _from_row(row) if row else None


def find_many(connection: Connection, wanted: Filter) -> list[Job]:
    """The jobs that ``wanted`` asks for, in its order, without their specs."""
    named = [] if wanted.name is None else [job.c.name == wanted.name]
    return [_from_row(row) for row in _list.find(connection, wanted, *named)]


def queued(connection: Connection, lane: str, numbers: Sequence[str]) -> set[str]:
    """Those of ``numbers`` that wait for their turn."""
    return set(connection.execute(_queued, {"lane": lane, "numbers": numbers}).scalars())


def begin(connection: Connection, numbers: Sequence[str], fresh: Sequence[str], now: int, node: str) -> dict[str, Job]:
    """All of ``numbers``, with their specs, for a lane that has claimed them; the ``fresh`` ones begin on ``node``."""
    found = {row.id: _from_row(row) for row in connection.execute(_claimed, {"numbers": numbers})}
    starting = [number for number in fresh if number in found and found[number].status is Status.STARTED]
    if starting:
        connection.execute(_fresh, {"numbers": starting, "time_started": now, "node": node})
        found |= {each: replace(found[each], time_started=now, node=node) for each in starting}
    return found


def change(connection: Connection, job_: Job, now: int, *, actor: Actor = HUB, **changes: Any) -> None:
    """Change a job that is still in the status it was read in; raises `Superseded` when it is not any more.

    A new status is an event.
    """
    mine = {"number": job_.id, "old": job_.status}
    if connection.execute(_change, {**mine, **_encoded(changes)}).rowcount != 1:
        raise Superseded(f"job {job_.id} is not {job_.status} any more")
    if "status" in changes:
        told = Happening(KIND, job_.id, job_.submitter, changes["status"], job_.status, changes.get("reason"))
        append(connection, [told], actor, now)


def find_spec(connection: Connection, number: str) -> Spec | None:
    """How the job is run."""
    spec: str | None = connection.execute(_spec, {"number": number}).scalar()
    return None if spec is None else msgspec.json.decode(spec, type=Spec)


def oldest(connection: Connection) -> dict[str, int]:
    """When the oldest job of each status that is not final was created."""
    return _list.oldest(connection, (status for status in Status if not status.final))


def expired(connection: Connection, stopped_before: int, created_before: int, limit: int) -> list[str]:
    """Jobs that ended before, and jobs that were created before and never started."""
    old = select(job.c.id).where(job.c.status == Status.STOPPED, job.c.time_stopped < stopped_before)
    unused = select(job.c.id).where(job.c.status == Status.CREATED, job.c.time_created < created_before)
    found = list(connection.execute(old.limit(limit)).scalars())
    return found + list(connection.execute(unused.limit(limit)).scalars())


def surplus(connection: Connection, most: int, limit: int) -> list[str]:
    """The jobs that ended first, of those beyond ``most`` that have ended."""
    ended = job.c.status == Status.STOPPED
    count: int = connection.execute(select(func.count()).where(ended)).scalar_one()
    if count <= most:
        return []
    first = select(job.c.id).where(ended).order_by(job.c.time_stopped).limit(min(limit, count - most))
    return list(connection.execute(first).scalars())


def remove(connection: Connection, numbers: Sequence[str], now: int, actor: Actor = HUB) -> None:
    """Remove records; that they went is an event, too."""
    rows = connection.execute(select(job.c.id, job.c.submitter, job.c.status).where(_among), {"numbers": numbers}).all()
    connection.execute(_remove, {"numbers": numbers})
    append(connection, [Happening(KIND, row.id, row.submitter, GONE, row.status) for row in rows], actor, now)


def which_of(connection: Connection, numbers: Sequence[str]) -> set[str]:
    """Those of ``numbers`` that are on record."""
    return set(connection.execute(select(job.c.id).where(_among), {"numbers": numbers}).scalars())


def _encoded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _json(value) if name in ("spec", "usage", "output") else value for name, value in values.items()}


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _from_row(row: Any) -> Job:
    values = dict(zip(row._fields, row, strict=True))
    values["status"] = Status(row.status)
    values["shell"] = bool(row.shell)
    values["spec"] = msgspec.json.decode(row.spec, type=Spec) if row.spec else None
    values["usage"] = msgspec.json.decode(row.usage, type=tuple[float, float, int]) if row.usage else None
    values["output"] = msgspec.json.decode(row.output, type=tuple[Written, ...]) if row.output else ()
    return Job(**values)
