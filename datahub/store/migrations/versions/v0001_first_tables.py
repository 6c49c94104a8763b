"""The first tables: the ledger of work, idempotency keys, transfers."""

from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, String, Text, UniqueConstraint, text

from datahub.store.schema import BigId

revision = "0001"
down_revision = None

OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    """Make all tables."""
    make_ledger()
    make_hubs()
    make_requests()
    make_transfers()


def make_ledger() -> None:
    """What is to be done."""
    op.create_table(
        "work",
        Column("id", BigId, primary_key=True, autoincrement=True),
        Column("lane", String(120), nullable=False),
        Column("subject", String(64), nullable=False),
        Column("submitter", String(190), nullable=False),
        Column("state", String(8), nullable=False),
        Column("turn", BigInteger, nullable=False),
        Column("due", BigInteger),
        Column("attempt", Integer, nullable=False),
        Column("owner", String(190)),
        Column("note", Text),
        UniqueConstraint("lane", "subject", name="work_once"),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    partial_index("work_turn", ["lane", "state", "turn", "id"], "state = 'ready'")
    partial_index("work_busy", ["lane", "state", "owner"], "state IN ('running', 'parked')")
    partial_index("work_due", ["state", "due"], "state IN ('delayed', 'parked')")
    partial_index("work_owner", ["owner"], "owner IS NOT NULL")
    op.create_table(
        "lane",
        Column("name", String(120), primary_key=True),
        Column("slots", Integer),
        Column("virtual", BigInteger, nullable=False),
        Column("paused", Boolean, nullable=False),
        **OPTIONS,
    )
    op.create_table(
        "share",
        Column("lane", String(120), primary_key=True),
        Column("submitter", String(190), primary_key=True),
        Column("last", BigInteger, nullable=False),
        **OPTIONS,
    )


def make_hubs() -> None:
    """Who does it."""
    op.create_table(
        "hub",
        Column("owner", String(190), primary_key=True),
        Column("node", String(120), nullable=False),
        Column("address", Text),
        Column("version", String(32), nullable=False),
        Column("beat", BigInteger, nullable=False),
        **OPTIONS,
    )
    op.create_table(
        "setting", Column("name", String(64), primary_key=True), Column("value", Text, nullable=False), **OPTIONS
    )


def make_requests() -> None:
    """Idempotency keys and the answers that were given."""
    op.create_table(
        "requests",
        Column("submitter", String(190), primary_key=True),
        Column("key", String(190), primary_key=True),
        Column("route", String(64), nullable=False),
        Column("digest", String(64), nullable=False),
        Column("status", Integer, nullable=False),
        Column("answer", Text, nullable=False),
        Column("at", BigInteger, nullable=False),
        **OPTIONS,
    )
    op.create_index("requests_at", "requests", ["at"])


def make_transfers() -> None:
    """One row a transfer."""
    times = ["staging", "staging_finished", "transferring", "error", "success", "cancelled"]
    op.create_table(
        "transfer",
        Column("id", String(36), primary_key=True),
        Column("product_id", Text, nullable=False),
        Column("destination_path", Text, nullable=False),
        Column("submitter", String(190), nullable=False),
        Column("overwrite", Boolean, nullable=False),
        Column("checksum", String(80)),
        Column("status", String(16), nullable=False),
        Column("detailed_status", Text),
        Column("stager_path", Text),
        Column("stager_status", Text),
        Column("files", BigInteger),
        Column("size", BigInteger),
        Column("checksums", Text),
        Column("delivery", Text),
        Column("attempts", Integer, nullable=False),
        Column("failing_since", BigInteger),
        Column("time_submitted", BigInteger, nullable=False),
        *(Column(f"time_{name}", BigInteger) for name in times),
        **OPTIONS,
    )
    op.create_index("transfer_submitter", "transfer", ["submitter", "time_submitted"])


def partial_index(name: str, columns: list[str], condition: str) -> None:
    """An index on the rows of interest; MariaDB can't, and holds all of them."""
    op.create_index(name, "work", columns, postgresql_where=text(condition), sqlite_where=text(condition))
