"""The rows behind the ledger."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Text, UniqueConstraint, literal_column

from datahub.store.schema import BigId, table

__all__ = [
    "DELAYED",
    "PARKED",
    "READY",
    "RECOVERED",
    "RUNNING",
    "busy",
    "hub",
    "lane",
    "ready",
    "share",
    "timed",
    "work",
]

READY, DELAYED, RUNNING, PARKED = "ready", "delayed", "running", "parked"
RECOVERED = "recovered"
"""The note of an item taken back from a hub that died; `jobs` must not run such a one twice."""

work = table(
    "work",
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("lane", String(120), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("submitter", String(190), nullable=False),
    Column("state", String(8), nullable=False),
    Column("turn", BigInteger, nullable=False),
    Column("due", BigInteger),
    Column("attempt", Integer, nullable=False, default=0),
    Column("owner", String(190)),
    Column("note", Text),
    UniqueConstraint("lane", "subject", name="work_once"),
)
# Written out rather than bound, and used by the queries as they stand here: with parameters in their place
# SQLite does not see that a partial index serves, and reads the whole lane.
_ready, _delayed, _running, _parked = (
    literal_column(f"'{state}'", String) for state in (READY, DELAYED, RUNNING, PARKED)
)
ready = work.c.state == _ready
busy = work.c.state.in_([_running, _parked])
timed = work.c.state.in_([_delayed, _parked])
owned = work.c.owner.isnot(None)
# MariaDB has no partial indexes: the same names there hold all rows, with the state in front of the turn.
Index("work_turn", work.c.lane, work.c.state, work.c.turn, work.c.id, postgresql_where=ready, sqlite_where=ready)
Index("work_busy", work.c.lane, work.c.state, work.c.owner, postgresql_where=busy, sqlite_where=busy)
Index("work_due", work.c.state, work.c.due, postgresql_where=timed, sqlite_where=timed)
Index("work_owner", work.c.owner, postgresql_where=owned, sqlite_where=owned)

lane = table(
    "lane",
    Column("name", String(120), primary_key=True),
    Column("slots", Integer),
    Column("virtual", BigInteger, nullable=False, default=0),
    Column("paused", Boolean, nullable=False, default=False),
)

share = table(
    "share",
    Column("lane", String(120), primary_key=True),
    Column("submitter", String(190), primary_key=True),
    Column("last", BigInteger, nullable=False),
)

hub = table(
    "hub",
    Column("owner", String(190), primary_key=True),
    Column("node", String(120), nullable=False),
    Column("address", Text),
    Column("version", String(32), nullable=False),
    Column("beat", BigInteger, nullable=False),
)
