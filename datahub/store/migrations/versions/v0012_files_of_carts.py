"""Which files of carts use a copy is found by an index: without it, each file fetched was a walk through its cart."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Index the files of carts by what is kept of them."""
    op.create_index("cart_file_holding", "cart_file", ["holding"])
