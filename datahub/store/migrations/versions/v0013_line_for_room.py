"""The line of carts that wait for room, and how often a file of a cart could not be read."""

from typing import Any

from alembic import op
from sqlalchemy import Column, Integer, String

from datahub.store.schema import BigId

revision = "0013"
down_revision = "0012"

OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    """Make the table, in which who waits already stands from his next question on, and count reads that failed."""
    op.add_column("cart_file", Column("attempts", Integer))
    op.create_table(
        "room_line",
        Column("id", BigId, primary_key=True, autoincrement=True),
        Column("cart", String(36), nullable=False),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index("room_line_cart", "room_line", ["cart"], unique=True)
