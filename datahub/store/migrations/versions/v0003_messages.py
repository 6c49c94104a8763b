"""Messages: their bytes, by digest."""

from typing import Any

from alembic import op
from sqlalchemy import Column, LargeBinary, String
from sqlalchemy.dialects.mysql import LONGBLOB

revision = "0003"
down_revision = "0002"

OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "message",
        Column("digest", String(64), primary_key=True),
        Column("content", LargeBinary().with_variant(LONGBLOB(), "mysql"), nullable=False),
        **OPTIONS,
    )
