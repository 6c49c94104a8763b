"""Names at destinations that can't keep two transfers apart: each belongs to one transfer until that has ended.

A claim is not given back; it counts no more when its transfer has ended, and goes with its record.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from sqlalchemy import Column, Connection, Index, String, delete, select, update

from datahub.store.dialect import insert_if_absent
from datahub.store.schema import table
from datahub.transfers import tables

__all__ = ["claim", "forget", "take"]

claim = table(
    "claim",
    Column("name", String(32), primary_key=True),
    Column("transfer", String(36), nullable=False),
    Index("claim_transfer", "transfer"),
)


def take(connection: Connection, name: str, transfer: str) -> str | None:
    """Claim ``name`` (of any length) for a transfer; the id of another that has it and has not ended, or None."""
    key = sha256(name.encode()).hexdigest()[:32]
    if insert_if_absent(connection, claim, {"name": key, "transfer": transfer}):
        return None
    its = claim.c.name == key
    holder: str = connection.execute(select(claim.c.transfer).where(its).with_for_update()).scalar_one()
    found = None if holder == transfer else tables.find(connection, holder)
    if found is not None and not found.status.final:
        return holder
    connection.execute(update(claim).where(its).values(transfer=transfer))
    return None


def forget(connection: Connection, transfers: Sequence[str]) -> None:
    """Remove the claims of transfers that have ended."""
    connection.execute(delete(claim).where(claim.c.transfer.in_(transfers)))
