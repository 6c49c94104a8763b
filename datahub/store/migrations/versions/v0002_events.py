"""Events and what is counted from them; priority, deadline and the indexes of lists for transfers."""

from hashlib import sha256
from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String, Text, bindparam, column, select, table, text, update

from datahub.store.schema import BigId

revision = "0002"
down_revision = "0001"

OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
ORDER = ["time_submitted", "id"]


def upgrade() -> None:
    """Make the new tables, and give old transfers what the new columns need."""
    make_events()
    extend_transfers()


def make_events() -> None:
    """What happened, and the sums of it."""
    op.create_table(
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
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index("event_position", "event", ["position"])
    new = text("position IS NULL")
    op.create_index("event_unnumbered", "event", ["position", "id"], postgresql_where=new, sqlite_where=new)
    for name in ("subject", "submitter", "type"):
        op.create_index(f"event_{name}", "event", [name, "position"])
    op.create_index("event_time", "event", ["time"])
    op.create_table(
        "tally",
        Column("kind", String(16), primary_key=True),
        Column("status", String(16), primary_key=True),
        Column("bucket", BigInteger, primary_key=True, autoincrement=False),
        Column("count", BigInteger, nullable=False),
        Column("size", BigInteger, nullable=False),
        **OPTIONS,
    )


def extend_transfers() -> None:
    """New columns; the old index is part of a new one."""
    op.add_column("transfer", Column("priority", Integer, nullable=False, server_default="3"))
    op.add_column("transfer", Column("deadline", BigInteger))
    op.add_column("transfer", Column("destination_key", String(32), nullable=False, server_default=""))
    fill_destination_keys()
    op.drop_index("transfer_submitter", "transfer")
    op.create_index("transfer_time", "transfer", ORDER)
    for name in ("submitter", "status", "destination_key"):
        op.create_index(f"transfer_{name}", "transfer", [name, *ORDER])
    op.create_index("transfer_submitter_status", "transfer", ["submitter", "status", *ORDER])
    due = text("deadline IS NOT NULL")
    op.create_index("transfer_deadline", "transfer", ["deadline"], postgresql_where=due, sqlite_where=due)
    count_transfers()


def fill_destination_keys() -> None:
    """As `datahub.transfers.tables.key_of` does."""
    transfer = table("transfer", column("id"), column("destination_path"), column("destination_key"))
    connection = op.get_bind()
    change = update(transfer).where(transfer.c.id == bindparam("number")).values(destination_key=bindparam("key"))
    for number, path in connection.execute(select(transfer.c.id, transfer.c.destination_path)).all():
        key = sha256(path.rstrip("/").encode()).hexdigest()[:32]
        connection.execute(change, {"number": number, "key": key})


def count_transfers() -> None:
    """What is there already has no events: its sums are taken once."""
    op.get_bind().execute(
        text(
            "INSERT INTO tally (kind, status, bucket, count, size) "
            "SELECT 'transfer', status, 0, count(*), coalesce(sum(size), 0) FROM transfer GROUP BY status"
        )
    )
