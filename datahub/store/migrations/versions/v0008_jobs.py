"""Jobs: what was to be run, and what became of it."""

from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, String, Text

from datahub.store.schema import LongText

revision = "0008"
down_revision = "0007"

OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
ORDER = ["time_created", "id"]


def upgrade() -> None:
    """Make the table, and an index for each way in which jobs are listed or found."""
    op.create_table(
        "job",
        Column("id", String(36), primary_key=True),
        Column("submitter", String(190), nullable=False),
        Column("name", String(190)),
        Column("status", String(16), nullable=False),
        Column("command", LongText, nullable=False),
        Column("shell", Boolean, nullable=False),
        Column("spec", LongText, nullable=False),
        Column("reason", Text, nullable=False),
        Column("detail", Text),
        Column("node", String(120)),
        Column("process", String(80)),
        Column("exit_code", Integer),
        Column("signal", String(40)),
        Column("usage", Text),
        Column("output", Text),
        Column("time_created", BigInteger, nullable=False),
        Column("time_requested", BigInteger),
        Column("time_started", BigInteger),
        Column("time_stopped", BigInteger),
        **OPTIONS,
    )
    op.create_index("job_time", "job", ORDER)
    for name in ("submitter", "status", "name"):
        op.create_index(f"job_{name}", "job", [name, *ORDER])
    op.create_index("job_submitter_status", "job", ["submitter", "status", *ORDER])
    op.create_index("job_stopped", "job", ["status", "time_stopped"])
