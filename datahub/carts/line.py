"""The line of carts that need room: a row for each until it ends, in the order in which they first asked. Only SQL.

Who has room keeps his place, as he may need more: those behind him may be waiting for what he holds.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Connection, Index, String, delete, or_, select

from datahub.carts import waits
from datahub.carts.model import Status
from datahub.carts.tables import cart
from datahub.store.dialect import insert_if_absent
from datahub.store.schema import BigId, table
from datahub.work import ledger

__all__ = ["LANE", "call", "is_behind", "leave", "line", "stand"]

LANE: Final = "carts.fetch"
"""The lane in which carts ask for room."""

line = table(
    "room_line",
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("cart", String(36), nullable=False),
)
Index("room_line_cart", line.c.cart, unique=True)

_staging = cart.c.status == Status.STAGING
# Who waits for something else in between, such as a file that is asked for anew, keeps his place, and holds up nobody.
_asks = or_(*(cart.c.waiting.startswith(each, autoescape=True) for each in waits.FOR_ROOM))
_both = line.join(cart, cart.c.id == line.c.cart)
_first = select(line.c.cart).select_from(_both).where(_staging, _asks).order_by(line.c.id).limit(1)


def stand(connection: Connection, number: str) -> None:
    """Let a cart stand at the end of the line, unless it has a place."""
    insert_if_absent(connection, line, {"cart": number})


def is_behind(connection: Connection, number: str) -> bool:
    """Whether a cart that waits for room stands before this one, which has a place too."""
    place = select(line.c.id).where(line.c.cart == number).scalar_subquery()
    return connection.execute(_first.where(line.c.id < place)).first() is not None


def call(connection: Connection) -> None:
    """Have the first that waits see at once whether there is room for it."""
    first = connection.execute(_first).scalar()
    if first is not None:
        ledger.hasten(connection, LANE, first)


def leave(connection: Connection, number: str) -> None:
    """Let a cart that has come to its end leave the line, and call the next one."""
    if connection.execute(delete(line).where(line.c.cart == number)).rowcount:
        call(connection)
