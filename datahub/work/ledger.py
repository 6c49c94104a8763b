"""The ledger's transactions, enqueue, claim and settle: each is part of its caller's transaction.

The statements of every item's way are built once, here: SQLAlchemy builds longer than a database runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, delete, func, select, update

from datahub.errors import Superseded
from datahub.store.dialect import Direct, Upsert, insert_if_absent
from datahub.work import Item
from datahub.work.tables import DELAYED, PARKED, READY, RECOVERED, RUNNING, busy, lane, ready, share, work

__all__ = [
    "CANCEL",
    "COST",
    "claim",
    "declare",
    "enqueue",
    "give_back",
    "hasten",
    "hold",
    "lock",
    "park",
    "resume",
    "retry",
    "settle",
    "take_off",
    "wake",
    "withdraw",
]

COST = 1000
"""The price of a turn in 1/1000 shares, at weight 1 and priority 3."""

CANCEL = "cancel"
"""The note that tells an item's hub to stop it."""

_this_lane = lane.c.name == bindparam("lane")
_virtual = Direct(select(lane.c.virtual).where(_this_lane))
_begun = case((share.c.last > bindparam("virtual"), share.c.last), else_=bindparam("virtual"))
_take_turn = Upsert(share, last=_begun + bindparam("cost"))
_turn = Direct(
    select(share.c.last).where(share.c.lane == bindparam("lane"), share.c.submitter == bindparam("submitter"))
)

_locked_lane = select(lane.c.slots, lane.c.virtual, lane.c.paused).where(_this_lane).with_for_update()
_busy = select(func.count()).where(work.c.lane == bindparam("lane"), busy)
_lowest_turns = (
    select(work.c.id, work.c.subject, work.c.submitter, work.c.attempt, work.c.note, work.c.turn)
    .where(work.c.lane == bindparam("lane"), ready)
    .order_by(work.c.turn, work.c.id)
    .limit(bindparam("count"))
    .with_for_update(skip_locked=True)
)
_take = (
    update(work)
    .where(work.c.id.in_(bindparam("ids", expanding=True)))
    .values(state=RUNNING, owner=bindparam("new_owner"), due=None, attempt=work.c.attempt + 1)
)
_advance = update(lane).where(_this_lane).values(virtual=bindparam("largest"))

_mine = and_(
    work.c.id == bindparam("item"),
    work.c.owner == bindparam("hub"),
    work.c.attempt == bindparam("its_attempt"),
)
_settle = delete(work).where(_mine)
_hold = select(work.c.id).where(_mine).with_for_update()
_release = update(work).where(_mine).values(owner=None, note=None)
_return = update(work).where(_mine).values(owner=None, due=None, state=READY)


def declare(connection: Connection, name: str, slots: int | None) -> None:
    """Make the row of lane ``name``; ``slots`` limits the whole cluster, None leaves it to each daemon."""
    if not insert_if_absent(connection, lane, {"name": name, "slots": slots, "virtual": 0, "paused": False}):
        connection.execute(update(lane).where(lane.c.name == name).values(slots=slots))


def enqueue(connection: Connection, name: str, subject: str, submitter: str, *, cost: int = COST) -> bool:
    """Give ``subject`` a place in lane ``name``, behind what ``submitter`` has there; False when it has one already.

    The turn comes from one counter a submitter, kept under its row's lock: turns computed from the waiting
    items let one submitter with many connections take several times his share.
    """
    turn = _next_turn(connection, name, submitter, cost)
    values = {"lane": name, "subject": subject, "submitter": submitter, "state": READY, "turn": turn, "attempt": 0}
    return insert_if_absent(connection, work, values)


def _next_turn(connection: Connection, name: str, submitter: str, cost: int) -> int:
    virtual: int = _virtual.scalar(connection, {"lane": name})
    mine = {"lane": name, "submitter": submitter}
    _take_turn(connection, {**mine, "last": virtual + cost, "virtual": virtual, "cost": cost})
    return int(_turn.scalar(connection, mine))


def claim(connection: Connection, name: str, count: int, owner: str) -> list[Item]:
    """Take up to ``count`` items of the lowest turns for ``owner``, within the lane's slots.

    The lane's row is locked first: without it, two claims at once overrun the slots.
    """
    row = connection.execute(_locked_lane, {"lane": name}).one()
    if row.paused:
        return []
    if row.slots is not None:
        count = min(count, row.slots - int(connection.execute(_busy, {"lane": name}).scalar_one()))
    if count <= 0:
        return []
    taken = connection.execute(_lowest_turns, {"lane": name, "count": count}).all()
    if not taken:
        return []
    connection.execute(_take, {"ids": [each.id for each in taken], "new_owner": owner})
    largest = max(each.turn for each in taken)
    if largest > row.virtual:
        connection.execute(_advance, {"lane": name, "largest": largest})
    return [Item(each.id, name, each.subject, each.submitter, each.attempt + 1, each.note) for each in taken]


def settle(connection: Connection, item: Item, owner: str) -> None:
    """Take ``item`` off the ledger; raises `Superseded` when another attempt has it, so that all rolls back."""
    _expect(item, connection.execute(_settle, _key(item, owner)).rowcount)


def hold(connection: Connection, item: Item, owner: str) -> None:
    """Raise `Superseded` unless ``item`` is still ours; it stays so until this transaction ends."""
    _expect(item, len(connection.execute(_hold, _key(item, owner)).all()))


def retry(connection: Connection, item: Item, owner: str, due: int) -> None:
    """Put ``item`` off until ``due`` (ms of the hub's clock); its turn stays."""
    _put_back(connection, item, owner, DELAYED, due)


def park(connection: Connection, item: Item, owner: str, until: int) -> None:
    """Keep ``item`` and its slot for somebody outside, until ``until`` at most."""
    _put_back(connection, item, owner, PARKED, until)


def give_back(connection: Connection, item: Item, owner: str) -> None:
    """Make ``item`` ready again: its step was stopped before it came to an end. Recovered it stays."""
    note = item.note if item.note == RECOVERED else None
    _expect(item, connection.execute(_return, {**_key(item, owner), "note": note}).rowcount)


def _put_back(connection: Connection, item: Item, owner: str, state: str, due: int | None) -> None:
    _expect(item, connection.execute(_release, {**_key(item, owner), "state": state, "due": due}).rowcount)


def _key(item: Item, owner: str) -> dict[str, Any]:
    return {"item": item.id, "hub": owner, "its_attempt": item.attempt}


def _expect(item: Item, rows: int) -> None:
    if rows != 1:
        raise Superseded(f"{item.lane} of {item.subject}: attempt {item.attempt} is not the one that counts any more")


def lock(connection: Connection, name: str, subject: str) -> int | None:
    """Keep everybody else from the item of ``subject`` in lane ``name`` until this transaction ends; its attempt.

    None when it has none. Whoever changes item and record locks the item first.
    """
    place = select(work.c.attempt).where(work.c.lane == name, work.c.subject == subject)
    attempt: int | None = connection.execute(place.with_for_update()).scalar()
    return attempt


def resume(connection: Connection, name: str, subject: str, owner: str) -> Item | None:
    """Take the parked item of ``subject`` for ``owner``, who settles it in this transaction; None if none is parked."""
    mine = (work.c.lane == name, work.c.subject == subject, work.c.state == PARKED)
    found = connection.execute(select(work).where(*mine).with_for_update()).first()
    if found is None:
        return None
    connection.execute(update(work).where(work.c.id == found.id).values(state=RUNNING, owner=owner, due=None))
    return Item(found.id, name, subject, found.submitter, found.attempt, found.note)


def wake(connection: Connection, name: str, subjects: Sequence[str]) -> None:
    """Make parked items ready: what they wait for is to be looked at anew."""
    parked = (work.c.lane == name, work.c.subject.in_(subjects), work.c.state == PARKED)
    connection.execute(update(work).where(*parked).values(state=READY, due=None))


def hasten(connection: Connection, name: str, subject: str) -> None:
    """Make what was put off ready: what it waits for may be there now."""
    put_off = (work.c.lane == name, work.c.subject == subject, work.c.state == DELAYED)
    connection.execute(update(work).where(*put_off).values(state=READY, due=None))


def take_off(connection: Connection, name: str, subject: str) -> None:
    """Take ``subject`` off lane ``name``, in whatever state: somebody outside has done it. Its owner is superseded."""
    connection.execute(delete(work).where(work.c.lane == name, work.c.subject == subject))


def withdraw(connection: Connection, lanes: Sequence[str], subject: str) -> bool:
    """Take what has never begun of ``subject`` off the ledger; False when there is something to stop or undo.

    In that case a running item is marked for its hub, and one that waits becomes ready at once,
    for a step that finds its record cancelled and clears up.
    """
    items = connection.execute(
        select(work.c.id, work.c.state, work.c.attempt)
        .where(work.c.lane.in_(lanes), work.c.subject == subject)
        .with_for_update()
    ).all()
    for item in items:
        if item.attempt == 0:
            connection.execute(delete(work).where(work.c.id == item.id))
        elif item.state == RUNNING:
            connection.execute(update(work).where(work.c.id == item.id).values(note=CANCEL))
        else:
            connection.execute(update(work).where(work.c.id == item.id).values(state=READY, due=None, note=CANCEL))
    return all(item.attempt == 0 for item in items)
