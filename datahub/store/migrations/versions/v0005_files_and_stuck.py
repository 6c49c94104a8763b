"""What is known of each file of a transfer, and since when a transfer has not got on."""

from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Column, String, Text, text

revision = "0005"
down_revision = "0004"

OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    """Add the table of files; transfers that are under way are looked at soon."""
    op.create_table(
        "transfer_file",
        Column("transfer", String(36), primary_key=True),
        Column("number", BigInteger, primary_key=True, autoincrement=False),
        Column("path", Text, nullable=False),
        Column("size", BigInteger, nullable=False),
        Column("sha256", String(64)),
        Column("error", Text),
        **OPTIONS,
    )
    for name in ("since", "check_at", "stuck_at", "late_since"):
        op.add_column("transfer", Column(name, BigInteger))
    for name in ("check_at", "stuck_at"):
        given = text(f"{name} IS NOT NULL")
        op.create_index(f"transfer_{name}", "transfer", [name], postgresql_where=given, sqlite_where=given)
    op.execute(
        "UPDATE transfer SET since = time_submitted, check_at = time_submitted "
        "WHERE status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED')"
    )
