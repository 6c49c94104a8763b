"""The line of carts that wait for room: a row for each, in the order in which they first found none. Only SQL."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Column, Connection, Index, Select, String, delete, or_, select

from datahub.carts import waits
from datahub.carts.model import Status
from datahub.carts.tables import cart
from datahub.store.dialect import insert_if_absent
from datahub.store.schema import BigId, table
from datahub.work import ledger

__all__ = ["LANE", "is_behind", "leave", "line", "stand"]

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


def stand(connection: Connection, number: str) -> None:
    """Let a cart stand at the end of the line, unless it has a place."""
    insert_if_absent(connection, line, {"cart": number})


def is_behind(connection: Connection, number: str) -> bool:
    """Whether a cart that waits for room was here before this one."""
    ahead = _line()
    place = connection.execute(select(line.c.id).where(line.c.cart == number)).scalar()
    if place is not None:
        ahead = ahead.where(line.c.id < place)
    return connection.execute(ahead).first() is not None


def leave(connection: Connection, number: str) -> None:
    """Let a cart leave the line, and have the one that is first then see at once whether there is room for it."""
    if not connection.execute(delete(line).where(line.c.cart == number)).rowcount:
        return
    # Of those that came to an end without room for themselves, such as by what others fetched.
    connection.execute(delete(line).where(line.c.cart.not_in(select(cart.c.id).where(_staging))))
    first = connection.execute(_line()).scalar()
    if first is not None:
        ledger.hasten(connection, LANE, first)


def _line() -> Select[Any]:
    joined = line.join(cart, cart.c.id == line.c.cart)
    return select(line.c.cart).select_from(joined).where(_staging, _asks).order_by(line.c.id).limit(1)
