"""What is kept of transfers that an FTS server carries out: the job of the attempt, and when it is asked about next."""

from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Column, String, Text
from sqlalchemy.dialects.mysql import MEDIUMTEXT

revision = "0009"
down_revision = "0008"

OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    """Extend transfers, and add the jobs that are in flight."""
    op.add_column("transfer", Column("fts_attempt", String(80)))
    op.add_column("transfer", Column("fts_jobid", String(255)))
    op.add_column("transfer", Column("fts_details", Text().with_variant(MEDIUMTEXT(), "mysql")))
    op.create_table(
        "fts_job",
        Column("transfer", String(36), primary_key=True),
        Column("server", String(64), nullable=False),
        Column("job", String(255), nullable=False),
        Column("state", String(32), nullable=False),
        Column("since", BigInteger, nullable=False),
        Column("changed", BigInteger, nullable=False),
        Column("due", BigInteger, nullable=False),
        **OPTIONS,
    )
    op.create_index("fts_job_due", "fts_job", ["server", "due"])
