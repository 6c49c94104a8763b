"""The SQL that joins the files of carts with what is kept of them here; `datahub.archive.cache` has the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, or_, select, update

from datahub.archive import cache
from datahub.archive.cache import KNOWN, RESERVED, Holding, holding
from datahub.carts import tables
from datahub.carts.model import FAILED, Cart, CartFile, Status
from datahub.carts.tables import cart, cart_file
from datahub.store.dialect import Direct
from datahub.work.tables import hub

__all__ = [
    "Group",
    "Job",
    "adoptable",
    "bind",
    "claim",
    "evictable",
    "fail_users",
    "free",
    "free_all",
    "needed",
    "release",
    "reserve",
    "waiting",
    "whole_size",
]

AT_ONCE: Final = 1_000

_waiting = cart_file.c.status == "waiting"
_bind = Direct(
    update(cart_file)
    .where(cart_file.c.cart == bindparam("its_cart"), cart_file.c.number == bindparam("its_number"))
    .values(holding=bindparam("its_holding"))
)
_free = and_(
    or_(holding.c.owner.is_(None), holding.c.owner.not_in(bindparam("alive", expanding=True))),
    holding.c.id.not_in(bindparam("in_hand", expanding=True)),
)
_take = (
    update(holding)
    .where(holding.c.id == bindparam("its_id"), holding.c.state == bindparam("its_state"), _free)
    .values(owner=bindparam("its_owner"))
)
_both = cart_file.join(holding, holding.c.id == cart_file.c.holding)
_users = (
    select(cart_file)
    .where(cart_file.c.cart == bindparam("its_cart"), _waiting)
    .where(cart_file.c.holding.in_(bindparam("kept", expanding=True)))
    .order_by(cart_file.c.number)
)
_waits_here = (
    select(cart_file)
    .select_from(_both)
    .where(
        cart_file.c.cart == bindparam("its_cart"),
        cart_file.c.number >= bindparam("first"),
        _waiting,
        holding.c.state == cache.HELD,
    )
    .order_by(cart_file.c.number)
    .limit(bindparam("count"))
)


_these = select(holding).where(holding.c.id.in_(bindparam("kept", expanding=True)), holding.c.state == cache.HELD)


@dataclass(frozen=True, slots=True)
class Job:
    """A file of the archive to be asked for or fetched, and the files of a cart that it is to become.

    ``position`` is where it was found among these.
    """

    holding: Holding
    users: tuple[CartFile, ...]
    position: int

    @property
    def hashes(self) -> list[tuple[str, str]]:
        """The digests that the cart says it has."""
        return [(each.hashtype, each.hashsum) for each in self.users if each.hashtype and each.hashsum]


@dataclass(frozen=True, slots=True)
class Group:
    """Files of a cart that are in one state: how many, when the first is due, the longest faults and waits for tapes.

    ``error`` is one of their faults.
    """

    count: int
    due: int
    failing_since: int | None = None
    staging_since: int | None = None
    error: str | None = None


def bind(connection: Connection, number: str, files: Sequence[CartFile]) -> None:
    """Make a cart a user of the archive files it names."""
    if files:
        kept = cache.use(connection, [each.name for each in files])
        rows = [{"its_cart": number, "its_number": each.number, "its_holding": kept[each.name]} for each in files]
        _bind.many(connection, rows)


def free(connection: Connection, number: str, count: int) -> int:
    """Remove up to ``count`` files of a cart, the user of nothing through them any more; how many there were.

    What nobody else uses is dropped.
    """
    mine = select(cart_file.c.number, cart_file.c.holding).where(cart_file.c.cart == number)
    rows = connection.execute(mine.order_by(cart_file.c.number).limit(count)).all()
    if rows:
        users = Counter(int(row.holding) for row in rows if row.holding is not None)
        cache.let_go(connection, sorted(users.items()))
        these = (cart_file.c.cart == number, cart_file.c.number <= rows[-1].number)
        connection.execute(delete(cart_file).where(*these))
    return len(rows)


def free_all(connection: Connection, number: str) -> None:
    """Remove all files of a cart."""
    while free(connection, number, AT_ONCE):
        pass


def waiting(connection: Connection, number: str) -> dict[str, Group]:
    """The files of a cart that are not staged yet, by the state of what is kept of them."""
    columns = (
        holding.c.state,
        func.count(),
        func.min(holding.c.due),
        func.min(holding.c.failing_since),
        func.min(holding.c.staging_since),
        func.min(holding.c.error),
    )
    wanted = select(*columns).select_from(_both).where(cart_file.c.cart == number, _waiting)
    return {state: Group(*rest) for state, *rest in connection.execute(wanted.group_by(holding.c.state))}


def needed(connection: Connection, number: str) -> int:
    """The bytes that a cart needs room for."""
    return _bytes_of(connection, number, _waiting, holding.c.state == KNOWN)


def whole_size(connection: Connection, number: str) -> int:
    """The bytes of all different files of a cart, as far as they are known."""
    return _bytes_of(connection, number)


def _bytes_of(connection: Connection, number: str, *conditions: ColumnElement[bool]) -> int:
    wanted = select(holding.c.id, holding.c.size).select_from(_both).distinct()
    each = wanted.where(cart_file.c.cart == number, *conditions).subquery()
    # Not as whole numbers: what an archive says of its files may be more than a database can count so.
    return int(connection.execute(select(func.coalesce(func.sum(each.c.size * 1.0), 0))).scalar_one())


def reserve(connection: Connection, number: str) -> None:
    """Promise room to the files of a cart whose sizes are known."""
    mine = select(cart_file.c.holding).where(cart_file.c.cart == number, _waiting)
    these = (holding.c.state == KNOWN, holding.c.id.in_(mine))
    connection.execute(update(holding).where(*these).values(state=RESERVED))


def claim(
    connection: Connection,
    number: str,
    state: str,
    now: int,
    owner: str,
    count: int,
    most: int,
    in_hand: Collection[int],
    first: int = 0,
) -> list[Job]:
    """Take files of a cart, from position ``first`` on, that are due in ``state``, for the daemon ``owner``.

    Those of dead ones as well. Of several it takes ``most`` bytes together.

    So are its own, but for those ``in_hand``: it took them once, and could not say that it came to nothing.
    """
    alive = connection.execute(select(hub.c.owner).where(hub.c.owner != owner)).scalars().all()
    due = (cart_file.c.cart == number, cart_file.c.number >= first, _waiting)
    free = (holding.c.state == state, holding.c.due <= now, _free)
    # In the order of the cart's files, which their index has: the search ends with the last that is taken.
    wanted = select(holding, cart_file.c.number).select_from(_both)
    wanted = wanted.where(*due, *free).order_by(cart_file.c.number).limit(count)
    told = {"alive": alive, "in_hand": list(in_hand)}
    taken: dict[int, tuple[Holding, int]] = {}
    for row in connection.execute(wanted, told).all():
        if row.id in taken:
            continue
        most -= row.size or 0
        if taken and most < 0:
            break
        if connection.execute(_take, {"its_id": row.id, "its_state": state, "its_owner": owner, **told}).rowcount:
            taken[row.id] = Holding.of(row), row.number
    users = _users_of(connection, number, list(taken))
    return [Job(kept, tuple(users[kept.id]), position) for kept, position in taken.values()]


def _users_of(connection: Connection, number: str, kept: Sequence[int]) -> dict[int, list[CartFile]]:
    """The files of a cart that wait for each of these."""
    found: dict[int, list[CartFile]] = {each: [] for each in kept}
    if found:
        for row in connection.execute(_users, {"its_cart": number, "kept": list(found)}):
            found[row.holding].append(tables.file_of(row))
    return found


def release(connection: Connection, numbers: Sequence[int], owner: str) -> None:
    """Let others see to files that ``owner`` did not come to."""
    connection.execute(update(holding).where(holding.c.id.in_(numbers), holding.c.owner == owner).values(owner=None))


def adoptable(connection: Connection, number: str, first: int, count: int) -> list[tuple[CartFile, Holding]]:
    """Files of a cart, from position ``first`` on, that wait and that are here already."""
    files = connection.execute(_waits_here, {"its_cart": number, "first": first, "count": count}).all()
    kept = {row.id: Holding.of(row) for row in connection.execute(_these, {"kept": [row.holding for row in files]})}
    return [(tables.file_of(row), kept[row.holding]) for row in files if row.holding in kept]


def which_wait(connection: Connection, number: str, numbers: Sequence[int]) -> set[int]:
    """Those of a cart's files that are not staged yet."""
    wanted = select(cart_file.c.number).where(cart_file.c.cart == number, _waiting, cart_file.c.number.in_(numbers))
    return set(connection.execute(wanted).scalars())


def fail_users(connection: Connection, number: str, kept: int, error: str) -> None:
    """Tell a cart that one of its files can't be had."""
    mine = (cart_file.c.cart == number, cart_file.c.holding == kept, _waiting)
    count = connection.execute(update(cart_file).where(*mine).values(status=FAILED, error=error, holding=None)).rowcount
    cache.let_go(connection, [(kept, count)])


def evictable(connection: Connection, before: int, now: int) -> Iterator[Cart]:
    """Carts that may go for others', the one used longest ago first; none that is staged, or downloaded.

    Each is locked when it is given: nobody begins to use it any more.
    """
    idle = or_(cart.c.busy_until.is_(None), cart.c.busy_until < now)
    old = (cart.c.status.in_([Status.READY, Status.ERROR]), cart.c.has_files, cart.c.time_used <= before, idle)
    rows = connection.execute(select(cart.c.id).where(*old).order_by(cart.c.time_used, cart.c.id)).scalars().all()
    for each in rows:
        if connection.execute(select(cart.c.id).where(cart.c.id == each, *old).with_for_update()).first():
            found = tables.find(connection, each)
            if found is not None:
                yield found
