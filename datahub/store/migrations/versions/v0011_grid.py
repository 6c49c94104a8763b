"""What grid servers verify of each file of a transfer, and which transfer has claimed which name there."""

from typing import Any

from alembic import op
from sqlalchemy import Column, String

revision = "0011"
down_revision = "0010"

OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    """Extend the table of files, and add that of claims."""
    op.add_column("transfer_file", Column("adler32", String(8)))
    op.create_table(
        "claim",
        Column("name", String(32), primary_key=True),
        Column("transfer", String(36), nullable=False),
        **OPTIONS,
    )
    op.create_index("claim_transfer", "claim", ["transfer"])
