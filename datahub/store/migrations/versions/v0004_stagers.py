"""What is kept of a stager that calls back: the attempt it was asked in, the report that settled it, and its host."""

from alembic import op
from sqlalchemy import Column, String, Text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Extend transfers; what was staged by then came from the archive."""
    op.add_column("transfer", Column("stager_hostname", Text))
    op.add_column("transfer", Column("staging_attempt", String(40)))
    op.add_column("transfer", Column("staging_report", String(64)))
