"""The rows of jobs that are in flight at FTS servers: whose they are, and when they are asked about next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import BigInteger, Column, Connection, Index, String, bindparam, case, delete, func, select, update

from datahub.store.dialect import insert_if_absent
from datahub.store.schema import table

__all__ = [
    "CANCELED",
    "LATE",
    "TAKEN",
    "Flight",
    "Look",
    "due",
    "enter",
    "everywhere",
    "find",
    "keep",
    "key_of",
    "land",
    "next_due",
    "put_off",
]

fts_job = table(
    "fts_job",
    Column("transfer", String(36), primary_key=True),
    Column("server", String(64), nullable=False),
    Column("job", String(255), nullable=False),
    Column("state", String(32), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("due", BigInteger, nullable=False),
)
TAKEN, LATE, CANCELED = "TAKEN", "LATE", "CANCELED"
"""What the hub writes of a job: that its server has it, that it took too long, that it is to be cancelled.

The latter two it is told to cancel, and they stay so whatever is seen of them; all else is as FTS says.
"""
Index("fts_job_due", fts_job.c.server, fts_job.c.due)

_put_off = (
    update(fts_job)
    .where(fts_job.c.transfer == bindparam("number"), fts_job.c.job == bindparam("its_job"))
    .values(due=bindparam("next"), state=bindparam("new_state"), changed=bindparam("new_changed"))
)


@dataclass(frozen=True, slots=True)
class Flight:
    """A job in flight at ``server`` (`key_of`); ``since`` it was begun, ``changed`` into its state, in ms."""

    transfer: str
    job: str
    state: str
    since: int
    changed: int
    server: str

    @property
    def stopped(self) -> bool:
        """Whether the server was told to cancel it."""
        return self.state in (LATE, CANCELED)


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a flight, and when it is looked at next."""

    transfer: str
    job: str
    state: str
    changed: int
    due: int


def key_of(server: str) -> str:
    """What stands for a server's URL in an index and in the ledger, which take no long texts."""
    return sha256(server.encode()).hexdigest()[:32]


def enter(connection: Connection, transfer: str, server: str, job: str, now: int, due_at: int) -> None:
    """Begin to follow the job of a transfer, in place of any it had before."""
    land(connection, transfer)
    row = {"transfer": transfer, "server": server, "job": job, "state": "", "since": now, "changed": now, "due": due_at}
    insert_if_absent(connection, fts_job, row)


def keep(connection: Connection, transfer: str, job: str, due_at: int) -> bool:
    """Go on following the job of a transfer, which its server has; False if another one is followed, or none."""
    its = (fts_job.c.transfer == transfer, fts_job.c.job == job)
    state = case((fts_job.c.state == "", TAKEN), else_=fts_job.c.state)
    return connection.execute(update(fts_job).where(*its).values(due=due_at, state=state)).rowcount == 1


def find(connection: Connection, transfer: str) -> Flight | None:
    """The job in flight of a transfer."""
    row = connection.execute(select(fts_job).where(fts_job.c.transfer == transfer)).first()
    return None if row is None else Flight(row.transfer, row.job, row.state, row.since, row.changed, row.server)


def everywhere(connection: Connection) -> list[str]:
    """The transfers that have a job in flight, at any server."""
    return list(connection.execute(select(fts_job.c.transfer)).scalars())


def due(connection: Connection, server: str, now: int, limit: int) -> list[Flight]:
    """The jobs at a server that are to be asked about, the longest due first."""
    wanted = select(fts_job).where(fts_job.c.server == server, fts_job.c.due <= now).order_by(fts_job.c.due)
    rows = connection.execute(wanted.limit(limit))
    return [Flight(row.transfer, row.job, row.state, row.since, row.changed, row.server) for row in rows]


def next_due(connection: Connection, server: str) -> int | None:
    """When the first job at a server is to be asked about; None if there is none."""
    found: int | None = connection.execute(select(func.min(fts_job.c.due)).where(fts_job.c.server == server)).scalar()
    return found


def put_off(connection: Connection, looks: Sequence[Look]) -> None:
    """Write down what was seen, unless another job took the place of the one that was looked at."""
    rows = [
        {
            "number": each.transfer,
            "its_job": each.job,
            "next": each.due,
            "new_state": each.state[:32],
            "new_changed": each.changed,
        }
        for each in looks
    ]
    if rows:
        connection.execute(_put_off, rows)


def land(connection: Connection, transfer: str) -> None:
    """Follow the transfer's job no more."""
    connection.execute(delete(fts_job).where(fts_job.c.transfer == transfer))
