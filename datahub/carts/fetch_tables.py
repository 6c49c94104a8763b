"""The SQL that joins the files of carts with what is kept of them here; `datahub.archive.cache` has the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, bindparam, func, or_, select, update

from datahub.archive import cache
from datahub.archive.cache import KNOWN, Holding, holding
from datahub.carts import tables
from datahub.carts.model import FAILED, Cart, CartFile, Status
from datahub.carts.tables import cart, cart_file
from datahub.work.tables import hub

__all__ = [
    "Group",
    "Job",
    "adoptable",
    "bind",
    "claim",
    "evictable",
    "fail_users",
    "known",
    "release",
    "unbind",
    "waiting",
    "whole_size",
]

_waiting = cart_file.c.status == "waiting"
_bound = update(cart_file).where(
    cart_file.c.cart == bindparam("its_cart"), cart_file.c.number == bindparam("its_number")
)


@dataclass(frozen=True, slots=True)
class Job:
    """A file to be asked for or fetched, the digests that a cart says it has, and its paths there."""

    holding: Holding
    hashes: tuple[tuple[str, str], ...]
    paths: tuple[str, ...]


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
    for each in files:
        kept = cache.use(connection, each.name)
        connection.execute(_bound.values(holding=kept), {"its_cart": number, "its_number": each.number})


def unbind(connection: Connection, numbers: Sequence[str]) -> None:
    """Make carts users of nothing any more; what nobody else uses is dropped."""
    counted = (
        select(cart_file.c.holding, func.count())
        .where(cart_file.c.cart.in_(numbers), cart_file.c.holding.isnot(None))
        .group_by(cart_file.c.holding)
        .order_by(cart_file.c.holding)
    )
    cache.let_go(connection, [(int(kept), int(count)) for kept, count in connection.execute(counted)])
    connection.execute(update(cart_file).where(cart_file.c.cart.in_(numbers)).values(holding=None))


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
    joined = cart_file.join(holding, holding.c.id == cart_file.c.holding)
    wanted = select(*columns).select_from(joined).where(cart_file.c.cart == number, _waiting)
    return {state: Group(*rest) for state, *rest in connection.execute(wanted.group_by(holding.c.state))}


def known(connection: Connection, number: str) -> tuple[list[int], int]:
    """What a cart needs room for: numbers, and bytes in all."""
    joined = cart_file.join(holding, holding.c.id == cart_file.c.holding)
    wanted = select(holding.c.id, holding.c.size).select_from(joined).distinct()
    rows = connection.execute(wanted.where(cart_file.c.cart == number, _waiting, holding.c.state == KNOWN)).all()
    return [row.id for row in rows], sum(row.size for row in rows)


def whole_size(connection: Connection, number: str) -> int:
    """The bytes of all different files of a cart, as far as they are known."""
    joined = cart_file.join(holding, holding.c.id == cart_file.c.holding)
    each = select(holding.c.id, holding.c.size).select_from(joined).distinct().where(cart_file.c.cart == number)
    # Summed here: what an archive says of its files may be more than a database can count.
    return sum(row.size or 0 for row in connection.execute(each))


def claim(
    connection: Connection,
    number: str,
    state: str,
    now: int,
    owner: str,
    count: int,
    most: int,
    in_hand: Collection[int],
) -> list[Job]:
    """Take files of a cart that are due in ``state``, for the daemon ``owner``; those of dead ones as well.

    Of several it takes ``most`` bytes together.

    So are its own, but for those ``in_hand``: it took them once, and could not say that it came to nothing.
    """
    alive = connection.execute(select(hub.c.owner).where(hub.c.owner != owner)).scalars().all()
    unowned = or_(holding.c.owner.is_(None), holding.c.owner.not_in(alive))
    free = and_(unowned, holding.c.id.not_in(in_hand))
    joined = cart_file.join(holding, holding.c.id == cart_file.c.holding)
    due = (cart_file.c.cart == number, _waiting, holding.c.state == state, holding.c.due <= now, free)
    # In the order of the cart's files, which their index has: the search ends with the last that is taken.
    wanted = select(holding).select_from(joined).where(*due).order_by(cart_file.c.number).limit(count)
    jobs: list[Job] = []
    for row in connection.execute(wanted).all():
        most -= row.size or 0
        if jobs and most < 0:
            break
        mine = (holding.c.id == row.id, holding.c.state == state, free)
        if connection.execute(update(holding).where(*mine).values(owner=owner)).rowcount:
            users = select(cart_file.c.hashtype, cart_file.c.hashsum, cart_file.c.path).where(
                cart_file.c.cart == number, cart_file.c.holding == row.id
            )
            told = connection.execute(users).all()
            hashes = tuple((each.hashtype, each.hashsum) for each in told if each.hashtype)
            jobs.append(Job(Holding.of(row), hashes, tuple(each.path for each in told)))
    return jobs


def release(connection: Connection, numbers: Sequence[int], owner: str) -> None:
    """Let others see to files that ``owner`` did not come to."""
    connection.execute(update(holding).where(holding.c.id.in_(numbers), holding.c.owner == owner).values(owner=None))


def adoptable(connection: Connection, number: str, count: int) -> list[tuple[CartFile, Holding]]:
    """Files of a cart that wait, and that are here already."""
    files = select(cart_file.c.number, cart_file.c.holding).join(holding, holding.c.id == cart_file.c.holding)
    wanted = files.where(cart_file.c.cart == number, _waiting, holding.c.state == cache.HELD).limit(count)
    found = []
    for row in connection.execute(wanted).all():
        (file,) = tables.window(connection, number, row.number, 1)
        kept = connection.execute(select(holding).where(holding.c.id == row.holding)).one()
        found.append((file, Holding.of(kept)))
    return found


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
