"""A clock of its own for the wait for a tape, apart from that of faults; and what a cart waits for."""

from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0010"
down_revision = "0009"

# Who waited for a tape had no error, and no other clock.
TAPES = (
    "UPDATE holding SET staging_since = failing_since, failing_since = NULL "
    "WHERE failing_since IS NOT NULL AND error IS NULL"
)
# It was that of a file: what a cart itself meets is judged from the next time on.
CARTS = "UPDATE cart SET failing_since = NULL WHERE status IN ('waiting', 'staging', 'bundling')"


def upgrade() -> None:
    """Part the clocks of what is under way."""
    op.add_column("holding", Column("staging_since", BigInteger))
    op.add_column("cart", Column("waiting", Text))
    op.execute(TAPES)
    op.execute(CARTS)
