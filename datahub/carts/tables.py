"""The rows of carts and of the files in them, and the only SQL about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    String,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from datahub.archive import Facts
from datahub.carts.model import FAILED, STAGED, WAITING, Cart, CartFile, Status, Wish
from datahub.errors import Superseded
from datahub.events import HUB, Actor, Happening
from datahub.events.tables import append
from datahub.files import path_of_url, url_of_path
from datahub.kit.filters import Filter
from datahub.store.dialect import insert_if_absent
from datahub.store.listing import Listing
from datahub.store.schema import table

__all__ = [
    "CALM",
    "KIND",
    "add",
    "begin",
    "cart",
    "cart_file",
    "change",
    "count_files",
    "count_staged",
    "count_undigested",
    "deleted",
    "expired",
    "failures",
    "file_of",
    "find",
    "find_by_uid",
    "find_many",
    "forget_files",
    "keep_digests",
    "keep_staged",
    "left_behind",
    "oldest",
    "outline",
    "remove",
    "replaced",
    "set_aside",
    "touch",
    "unused",
    "wait_again",
    "window",
]

KIND = "cart"
FORGOTTEN = "FORGOTTEN"
ASIDE = "/gone"
AT_ONCE: Final = 1_000
"""Rows inserted by one statement: other threads wait while its parameters are gathered."""
CALM: Final[Mapping[str, Any]] = {"error": None, "failing_since": None, "waiting": None}
"""The columns of a cart that gets on: the next fault is the first."""

cart = table(
    "cart",
    Column("id", String(36), primary_key=True),
    Column("uid", String(190), nullable=False),
    Column("submitter", String(190), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("partial", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("error", Text),
    Column("files", Integer, nullable=False),
    Column("size", BigInteger),
    Column("staged_files", Integer, nullable=False),
    Column("staged_size", BigInteger, nullable=False),
    Column("identity", String(64)),
    Column("missing", Text),
    Column("reason", Text),
    Column("actor", Text),
    Column("attempts", Integer, nullable=False),
    Column("failing_since", BigInteger),
    Column("waiting", Text),
    Column("time_created", BigInteger, nullable=False),
    Column("time_staging", BigInteger),
    Column("time_ready", BigInteger),
    Column("time_used", BigInteger),
    Column("time_error", BigInteger),
    Column("time_gone", BigInteger),
    Column("busy_until", BigInteger),
    Column("has_files", Boolean, nullable=False),
)
ORDER = (cart.c.time_created, cart.c.id)
Index("cart_uid", cart.c.uid, unique=True)
Index("cart_time", *ORDER)
for _name in ("submitter", "status"):
    Index(f"cart_{_name}", cart.c[_name], *ORDER)
Index("cart_submitter_status", cart.c.submitter, cart.c.status, *ORDER)

cart_file = table(
    "cart_file",
    Column("cart", String(36), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("path", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("hashtype", String(8)),
    Column("hashsum", String(128)),
    Column("status", String(8), nullable=False),
    Column("size", BigInteger),
    Column("mtime_ns", BigInteger),
    Column("facts", String(80)),
    Column("place", Text),
    Column("sha256", String(64)),
    Column("holding", BigInteger),
    Column("error", Text),
    Column("attempts", Integer),
)
Index("cart_file_holding", cart_file.c.holding)

_list = Listing(cart, "time_created")
_one = select(cart).where(cart.c.id == bindparam("number"))
_by_uid = select(cart).where(cart.c.uid == bindparam("name"))
_change = update(cart).where(cart.c.id == bindparam("number"), cart.c.status == bindparam("old"))
_among = cart.c.id.in_(bindparam("numbers", expanding=True))
_all = select(cart).where(_among).with_for_update()
_window = (
    select(cart_file)
    .where(cart_file.c.cart == bindparam("number"), cart_file.c.number >= bindparam("first"))
    .order_by(cart_file.c.number)
    .limit(bindparam("count"))
)
_outline = (
    select(cart_file.c.number, cart_file.c.path, cart_file.c.size, cart_file.c.mtime_ns)
    .where(
        cart_file.c.cart == bindparam("number"),
        cart_file.c.number >= bindparam("first"),
        cart_file.c.status == STAGED,
    )
    .order_by(cart_file.c.number)
    .limit(bindparam("count"))
)
_count = _change.values(
    staged_files=cart.c.staged_files + bindparam("more"), staged_size=cart.c.staged_size + bindparam("larger")
)
_this_file = and_(cart_file.c.cart == bindparam("its_cart"), cart_file.c.number == bindparam("its_number"))
_insert_files = insert(cart_file)
_staged = (
    update(cart_file)
    .where(_this_file)
    .values(
        status=bindparam("new_status"),
        size=bindparam("new_size"),
        mtime_ns=bindparam("new_mtime_ns"),
        facts=bindparam("new_facts"),
        place=bindparam("new_place"),
        sha256=bindparam("new_sha256"),
        error=bindparam("new_error"),
        attempts=bindparam("new_attempts"),
    )
)
_digested = update(cart_file).where(_this_file).values(sha256=bindparam("new_sha256"), error=bindparam("new_error"))


def add(connection: Connection, new: Cart, wishes: Sequence[Wish], actor: Actor) -> bool:
    """Insert a cart that was just asked for, with its files; False if there is one of its uid."""
    if not insert_if_absent(connection, cart, {name: getattr(new, name) for name in Cart.__slots__}):
        return False
    for first in range(0, len(wishes), AT_ONCE):
        rows = [
            {
                "cart": new.id,
                "number": number,
                "path": each.path,
                "name": each.name,
                "hashtype": each.hashtype,
                "hashsum": each.hashsum,
                "status": WAITING,
            }
            for number, each in enumerate(wishes[first : first + AT_ONCE], first)
        ]
        connection.execute(_insert_files, rows)
    append(connection, [Happening(KIND, new.id, new.submitter, new.status)], actor, new.time_created)
    return True


def find(connection: Connection, number: str, *, lock: bool = False) -> Cart | None:
    """The cart with id ``number``."""
    return _cart(connection.execute(_one.with_for_update() if lock else _one, {"number": number}).first())


def find_by_uid(connection: Connection, uid: str, *, lock: bool = False) -> Cart | None:
    """The cart that its caller named ``uid``."""
    return _cart(connection.execute(_by_uid.with_for_update() if lock else _by_uid, {"name": uid}).first())


def find_many(connection: Connection, wanted: Filter) -> list[Cart]:
    """The carts that ``wanted`` asks for, in its order."""
    return [_from_row(row) for row in _list.find(connection, wanted)]


def window(connection: Connection, number: str, first: int, count: int) -> list[CartFile]:
    """Up to ``count`` files of a cart from position ``first`` on."""
    rows = connection.execute(_window, {"number": number, "first": first, "count": count})
    return [file_of(row) for row in rows]


def outline(connection: Connection, number: str, first: int, count: int) -> list[tuple[int, str, int, int]]:
    """What a layout is made of: number, path, size and time of the staged files from position ``first`` on."""
    rows = connection.execute(_outline, {"number": number, "first": first, "count": count})
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def count_staged(connection: Connection, before: Cart, files: int, size: int) -> None:
    """Count files that were staged just now; raises `Superseded` as `change` does."""
    mine = {"number": before.id, "old": before.status}
    if connection.execute(_count, {**mine, "more": files, "larger": size}).rowcount != 1:
        raise Superseded(f"cart {before.uid} is not {before.status} any more")


def keep_staged(connection: Connection, number: str, files: Sequence[CartFile]) -> None:
    """Write down what staging found out of each file."""
    connection.execute(
        _staged,
        [
            {
                "its_cart": number,
                "its_number": each.number,
                "new_status": each.status,
                "new_size": each.size,
                "new_mtime_ns": each.mtime_ns,
                "new_facts": each.facts and f"{each.facts.device}:{each.facts.inode}:{each.facts.ctime_ns}",
                "new_place": each.facts and url_of_path(each.facts.place),
                "new_sha256": each.sha256,
                "new_error": each.error,
                "new_attempts": each.attempts,
            }
            for each in files
        ],
    )


def keep_digests(connection: Connection, number: str, digests: Mapping[int, tuple[str | None, str | None]]) -> None:
    """Write down SHA-256 digests by position, or why there are none."""
    rows = [
        {"its_cart": number, "its_number": at, "new_sha256": digest, "new_error": error}
        for at, (digest, error) in digests.items()
    ]
    connection.execute(_digested, rows)


def count_files(connection: Connection, number: str) -> dict[str, tuple[int, int]]:
    """How many files of a cart are in each status, and their bytes."""
    counted = (cart_file.c.status, func.count(), func.coalesce(func.sum(cart_file.c.size), 0))
    rows = connection.execute(select(*counted).where(cart_file.c.cart == number).group_by(cart_file.c.status))
    return {status: (int(count), int(size)) for status, count, size in rows}


def count_undigested(connection: Connection, number: str) -> int:
    """How many staged files of a cart have no SHA-256 yet, and may get one."""
    waiting = (cart_file.c.cart == number, cart_file.c.status == STAGED, cart_file.c.sha256.is_(None))
    return int(connection.execute(select(func.count()).where(*waiting, cart_file.c.error.is_(None))).scalar_one())


def undigestable(connection: Connection, number: str) -> CartFile | None:
    """The first staged file of a cart whose SHA-256 could not be had: its error says why."""
    failed = (cart_file.c.cart == number, cart_file.c.status == STAGED, cart_file.c.sha256.is_(None))
    wanted = select(cart_file).where(*failed, cart_file.c.error.isnot(None)).order_by(cart_file.c.number).limit(1)
    row = connection.execute(wanted).one_or_none()
    return None if row is None else file_of(row)


def failures(connection: Connection, number: str, limit: int) -> list[CartFile]:
    """The first files of a cart that could not be staged."""
    failed = (cart_file.c.cart == number, cart_file.c.status == FAILED)
    return [
        file_of(row)
        for row in connection.execute(select(cart_file).where(*failed).order_by(cart_file.c.number).limit(limit))
    ]


def wait_again(connection: Connection, number: str) -> None:
    """Let files that could not be staged be tried anew, as often as at first."""
    left = (cart_file.c.cart == number, cart_file.c.status != STAGED)
    connection.execute(update(cart_file).where(*left).values(status=WAITING, error=None, attempts=None))


def forget_files(connection: Connection, numbers: Sequence[str]) -> None:
    """Remove the files' rows of carts that are gone."""
    connection.execute(delete(cart_file).where(cart_file.c.cart.in_(numbers)))
    connection.execute(update(cart).where(cart.c.id.in_(numbers)).values(has_files=False))


def deleted(connection: Connection, numbers: Sequence[str]) -> list[str]:
    """Those of ``numbers`` that somebody has deleted."""
    gone = (cart.c.id.in_(numbers), cart.c.status == Status.DELETED)
    return list(connection.execute(select(cart.c.id).where(*gone)).scalars())


def left_behind(connection: Connection, now: int, limit: int) -> list[str]:
    """Carts that are gone and that nobody downloads any more, whose files are still there."""
    gone = (cart.c.status.in_([Status.DELETED, Status.EVICTED]), cart.c.has_files)
    idle = or_(cart.c.busy_until.is_(None), cart.c.busy_until < now)
    return list(connection.execute(select(cart.c.id).where(*gone, idle).limit(limit)).scalars())


def remove(connection: Connection, numbers: Sequence[str], now: int) -> None:
    """Remove records; that they went is an event, too."""
    rows = [_from_row(row) for row in connection.execute(_all, {"numbers": numbers})]
    forget_files(connection, numbers)
    connection.execute(delete(cart).where(cart.c.id.in_(numbers)))
    gone = [Happening(KIND, each.id, each.submitter, FORGOTTEN, each.status, before=each.size or 0) for each in rows]
    append(connection, gone, HUB, now)


def set_aside(connection: Connection, number: str) -> None:
    """Free the uid of a cart that is gone, for another one: it gets one that no caller can use."""
    connection.execute(update(cart).where(cart.c.id == number).values(uid=number + ASIDE))


def replaced(connection: Connection, numbers: Sequence[str]) -> list[str]:
    """Those of ``numbers`` that another cart has the uid of."""
    aside = (cart.c.id.in_(numbers), cart.c.uid == cart.c.id + ASIDE)
    return list(connection.execute(select(cart.c.id).where(*aside)).scalars())


def expired(connection: Connection, before: int, limit: int) -> list[str]:
    """Carts that went before ``before``, the oldest first."""
    old = (cart.c.status.in_([Status.DELETED, Status.EVICTED]), cart.c.time_gone < before)
    return list(connection.execute(select(cart.c.id).where(*old).order_by(cart.c.time_gone).limit(limit)).scalars())


def unused(connection: Connection, before: int, limit: int) -> list[Cart]:
    """Carts that nobody has used since ``before``, the one that was used longest ago first."""
    old = (cart.c.status.in_([Status.READY, Status.ERROR]), cart.c.time_used < before)
    rows = connection.execute(select(cart).where(*old).order_by(cart.c.time_used, cart.c.id).limit(limit))
    return [_from_row(row) for row in rows]


def touch(connection: Connection, numbers: Sequence[str], now: int, busy_until: int | None) -> None:
    """Write down that carts were used, and until when they are being downloaded as far as is known."""
    connection.execute(update(cart).where(cart.c.id.in_(numbers)).values(time_used=now, busy_until=busy_until))


def oldest(connection: Connection) -> dict[str, int]:
    """When the oldest cart of each status that something is done for was asked for."""
    return _list.oldest(connection, (Status.WAITING, Status.STAGING, Status.BUNDLING))


def begin(connection: Connection, numbers: Iterable[str], now: int) -> dict[str, Cart]:
    """Move carts that waited on to STAGING; all of ``numbers`` as they are now, but for those that are settled."""
    found = {}
    for row in connection.execute(_all, {"numbers": list(numbers)}):
        each = _from_row(row)
        if each.status is Status.WAITING:
            change(connection, each, now, status=Status.STAGING, time_staging=now)
            each = replace(each, status=Status.STAGING, time_staging=now)
        if not each.status.settled:
            found[each.id] = each
    return found


def change(
    connection: Connection, before: Cart, now: int, *, actor: Actor = HUB, what: str = "", **changes: Any
) -> None:
    """Change a cart that is still in the state it was read in; raises `Superseded` when it is not any more.

    A change of the state, or one that has a name of its own (``what``), is an event; its row keeps who let a cart go.
    """
    if "status" in changes and Status(changes["status"]).gone:
        changes["actor"] = actor.name
    mine = {"number": before.id, "old": before.status}
    if connection.execute(_change, {**mine, **changes}).rowcount != 1:
        raise Superseded(f"cart {before.uid} is not {before.status} any more")
    if what or "status" in changes:
        after = replace(before, **changes)
        told = after.reason if after.status.gone else after.error
        sizes = {"size": after.size or 0, "before": before.size or 0}
        append(
            connection,
            [Happening(KIND, after.id, after.submitter, after.status, before.status, told, what=what, **sizes)],
            actor,
            now,
        )


def _cart(row: Any) -> Cart | None:
    return None if row is None else _from_row(row)


def _from_row(row: Any) -> Cart:
    values = dict(zip(row._fields, row, strict=True))
    values["status"] = Status(row.status)
    return Cart(**values)


def file_of(row: Any) -> CartFile:
    """Read a row."""
    facts = None
    if row.status == STAGED and row.facts is not None:
        device, inode, ctime_ns = map(int, row.facts.split(":"))
        facts = Facts(path_of_url(row.place), device, inode, row.size, row.mtime_ns, ctime_ns)
    return CartFile(
        row.number,
        row.path,
        row.name,
        row.hashtype,
        row.hashsum,
        row.status,
        row.size,
        row.mtime_ns,
        row.sha256,
        row.error,
        row.holding,
        facts,
        row.attempts or 0,
    )
