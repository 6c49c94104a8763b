"""What grid servers verify of each file of a transfer."""

from alembic import op
from sqlalchemy import Column, String

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Extend the table of files."""
    op.add_column("transfer_file", Column("adler32", String(8)))
