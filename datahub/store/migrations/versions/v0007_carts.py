"""Carts, and the files in them."""

from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, String, Text

from datahub.store.schema import BigId

revision = "0007"
down_revision = "0006"

OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
ORDER = ["time_created", "id"]


def upgrade() -> None:
    """Make the tables."""
    make_carts()
    make_files()
    make_holdings()


def make_carts() -> None:
    """One row a cart."""
    op.create_table(
        "cart",
        Column("id", String(36), primary_key=True),
        Column("uid", String(190), nullable=False),
        Column("submitter", String(190), nullable=False),
        Column("digest", String(64), nullable=False),
        Column("partial", Boolean, nullable=False),
        Column("status", String(16), nullable=False),
        Column("error", Text),
        Column("files", Integer, nullable=False),
        Column("size", BigInteger),
        Column("staged_files", Integer, nullable=False),
        Column("staged_size", BigInteger, nullable=False),
        Column("identity", String(64)),
        Column("missing", Text),
        Column("reason", Text),
        Column("actor", Text),
        Column("attempts", Integer, nullable=False),
        Column("failing_since", BigInteger),
        Column("time_created", BigInteger, nullable=False),
        *(Column(f"time_{name}", BigInteger) for name in ("staging", "ready", "used", "error", "gone")),
        Column("busy_until", BigInteger),
        Column("has_files", Boolean, nullable=False),
        **OPTIONS,
    )
    op.create_index("cart_uid", "cart", ["uid"], unique=True)
    op.create_index("cart_time", "cart", ORDER)
    for name in ("submitter", "status"):
        op.create_index(f"cart_{name}", "cart", [name, *ORDER])
    op.create_index("cart_submitter_status", "cart", ["submitter", "status", *ORDER])


def make_files() -> None:
    """One row a file of a cart, in the order of its tar."""
    op.create_table(
        "cart_file",
        Column("cart", String(36), primary_key=True),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("path", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("hashtype", String(8)),
        Column("hashsum", String(128)),
        Column("status", String(8), nullable=False),
        Column("size", BigInteger),
        Column("mtime_ns", BigInteger),
        Column("facts", String(80)),
        Column("place", Text),
        Column("sha256", String(64)),
        Column("holding", BigInteger),
        Column("error", Text),
        **OPTIONS,
    )


def make_holdings() -> None:
    """One row a file of the archive that is kept here for carts."""
    op.create_table(
        "holding",
        Column("id", BigId, primary_key=True, autoincrement=True),
        Column("name_key", String(64)),
        Column("name", Text, nullable=False),
        Column("state", String(8), nullable=False),
        Column("users", Integer, nullable=False),
        Column("size", BigInteger),
        Column("mtime_ns", BigInteger),
        Column("facts", String(80)),
        Column("place", Text),
        Column("digests", Text),
        Column("error", Text),
        Column("attempts", Integer, nullable=False),
        Column("failing_since", BigInteger),
        Column("due", BigInteger, nullable=False),
        Column("owner", String(190)),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index("holding_name", "holding", ["name_key"], unique=True)
    op.create_index("holding_state", "holding", ["state"])
