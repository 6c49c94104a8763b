"""Files of a remote archive that are kept here: one copy for all who want it, within the room there is.

A row for each file says what is known of it, who fetches it, and how many use it; its bytes lie in a folder under its
number and that of the attempt that fetched them. What nobody uses any more is dropped: first the row says so, then the
file goes, then the row.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    String,
    Text,
    bindparam,
    delete,
    func,
    select,
    update,
)

from datahub.archive import Facts
from datahub.errors import Superseded
from datahub.files import path_of_url, url_of_path
from datahub.kit.threads import Pool
from datahub.store import Store
from datahub.store.dialect import insert_if_absent
from datahub.store.schema import BigId, table
from datahub.store.settings import setting

__all__ = ["DROPPED", "HELD", "KNOWN", "NEW", "RESERVED", "Cache", "Holding", "holding"]

NEW, KNOWN, RESERVED, HELD, DROPPED = "new", "known", "reserved", "held", "dropped"
SPACE: Final = "carts.space"
BATCH: Final = 200

holding = table(
    "holding",
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("name_key", String(64)),
    Column("name", Text, nullable=False),
    Column("state", String(8), nullable=False),
    Column("users", Integer, nullable=False),
    Column("size", BigInteger),
    Column("mtime_ns", BigInteger),
    Column("facts", String(80)),
    Column("place", Text),
    Column("digests", Text),
    Column("error", Text),
    Column("attempts", Integer, nullable=False),
    Column("failing_since", BigInteger),
    Column("staging_since", BigInteger),
    Column("due", BigInteger, nullable=False),
    Column("owner", String(190)),
)
# None once it is dropped: the same file may be wanted again, and is another row then.
Index("holding_name", holding.c.name_key, unique=True)
Index("holding_state", holding.c.state)


@dataclass(frozen=True, slots=True)
class Holding:
    """One row; ``due`` says when it is to be seen to again (ms), ``owner`` which daemon sees to it now.

    ``attempts`` counts what came and can't be right. Faults have lasted since ``failing_since``; the archive has been
    getting the file from its tape since ``staging_since``.
    """

    id: int
    name: str
    state: str
    users: int
    size: int | None
    mtime_ns: int | None
    facts: Facts | None
    digests: dict[str, str]
    attempts: int
    failing_since: int | None
    staging_since: int | None
    due: int
    owner: str | None

    @classmethod
    def of(cls, row: Any) -> Holding:
        """Read a row."""
        facts = None
        if row.facts is not None:
            device, inode, ctime_ns = map(int, row.facts.split(":"))
            facts = Facts(path_of_url(row.place), device, inode, row.size, row.mtime_ns, ctime_ns)
        digests = msgspec.json.decode(row.digests, type=dict[str, str]) if row.digests else {}
        return cls(
            row.id,
            row.name,
            row.state,
            row.users,
            row.size,
            row.mtime_ns,
            facts,
            digests,
            row.attempts,
            row.failing_since,
            row.staging_since,
            row.due,
            row.owner,
        )


_more = update(holding).where(holding.c.name_key == bindparam("its_key")).values(users=holding.c.users + 1)
_id = select(holding.c.id).where(holding.c.name_key == bindparam("its_key"))


def use(connection: Connection, name: str) -> int:
    """Count one more user of a file of the archive: its number; nobody drops it as long as he is counted."""
    key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    while not connection.execute(_more, {"its_key": key}).rowcount:
        new = {"name_key": key, "name": name, "state": NEW, "users": 0, "attempts": 0, "due": 0}
        insert_if_absent(connection, holding, new)
    return int(connection.execute(_id, {"its_key": key}).scalar_one())


def let_go(connection: Connection, users: Iterable[tuple[int, int]]) -> None:
    """Count users less: number and how many; what nobody uses any more is dropped."""
    rows = [{"its_id": number, "less": count} for number, count in users]
    if not rows:
        return
    fewer = update(holding).where(holding.c.id == bindparam("its_id"))
    connection.execute(fewer.values(users=holding.c.users - bindparam("less")), rows)
    unused = (holding.c.id == bindparam("its_id"), holding.c.users <= 0)
    drop = update(holding).where(*unused).values(state=DROPPED, name_key=None, owner=None)
    connection.execute(drop, [{"its_id": each["its_id"]} for each in rows])


def lock_space(connection: Connection) -> None:
    """Let nobody else reserve room until this transaction ends."""
    insert_if_absent(connection, setting, {"name": SPACE, "value": ""})
    connection.execute(select(setting.c.value).where(setting.c.name == SPACE).with_for_update()).scalar()


def taken(connection: Connection) -> int:
    """The bytes that are kept or promised, and those that are still to be removed."""
    kept = holding.c.state.in_([RESERVED, HELD, DROPPED])
    return int(connection.execute(select(func.coalesce(func.sum(holding.c.size), 0)).where(kept)).scalar_one())


def kept(connection: Connection) -> int:
    """As `taken`, but for what is to be removed: the room there will be in a moment."""
    these = holding.c.state.in_([RESERVED, HELD])
    return int(connection.execute(select(func.coalesce(func.sum(holding.c.size), 0)).where(these)).scalar_one())


def change(connection: Connection, known: Holding, claimant: str, **values: Any) -> None:
    """Write down what is new of a file that ``claimant`` sees to; raises `Superseded` if he does so no more."""
    mine = (holding.c.id == known.id, holding.c.state == known.state, holding.c.owner == claimant)
    if connection.execute(update(holding).where(*mine).values(**values)).rowcount != 1:
        raise Superseded(f"{known.name!r} is not seen to here any more")


def lose(connection: Connection, known: Holding) -> None:
    """Have a copy fetched anew that is not there any more as it was kept."""
    mine = (holding.c.id == known.id, holding.c.state == HELD)
    place = known.facts and url_of_path(known.facts.place)
    anew: dict[str, Any] = {"state": NEW, "size": None, "mtime_ns": None, "facts": None, "place": None, "digests": None}
    anew |= {"owner": None, "due": 0, "attempts": 0}
    connection.execute(update(holding).where(*mine, holding.c.place == place).values(anew))


def is_kept(connection: Connection, number: int, place: str) -> bool:
    """Whether the copy at ``place`` is the one that is kept of the file of that number."""
    kept = (holding.c.id == number, holding.c.state == HELD, holding.c.place == url_of_path(place))
    return connection.execute(select(holding.c.id).where(*kept)).first() is not None


def reserve(connection: Connection, numbers: Sequence[int]) -> None:
    """Promise room to files whose sizes are known."""
    mine = update(holding).where(holding.c.id == bindparam("its_id"), holding.c.state == KNOWN)
    if numbers:
        connection.execute(mine.values(state=RESERVED), [{"its_id": each} for each in numbers])


def told(facts: Facts) -> dict[str, Any]:
    """Facts as columns."""
    return {
        "facts": f"{facts.device}:{facts.inode}:{facts.ctime_ns}",
        "place": url_of_path(facts.place),
        "size": facts.size,
        "mtime_ns": facts.mtime_ns,
    }


class Cache:
    """The folder of the copies; ``space`` is how many bytes they may take together."""

    def __init__(self, store: Store, folder: Path, space: int, pool: Pool) -> None:
        self._store = store
        self._folder = folder
        self._pool = pool
        self.space = space

    def _folder_of(self, number: int) -> Path:
        return self._folder / f"{number % 256:02x}"

    def begin(self, number: int, label: str) -> tuple[int, Path]:
        """Open a new temporary file for a copy, of this attempt alone; blocking. Older attempts' are removed."""
        folder = self._folder_of(number)
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        for old in folder.glob(f"{number}.*.part"):
            old.unlink(missing_ok=True)
        path = folder / f"{number}.{label}.part"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640), path

    def finish(self, opened: int, path: Path, mtime_ns: int) -> Facts:
        """Give a complete copy its name, durably; blocking. No other attempt has that name: what is kept stays."""
        os.utime(opened, ns=(mtime_ns, mtime_ns))
        os.fsync(opened)
        final = path.with_suffix("")
        path.rename(final)
        folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        found = os.fstat(opened)
        return Facts.of(str(final), found)

    def discard(self, opened: int, path: Path) -> None:
        """Let go of a temporary file; blocking."""
        os.close(opened)
        path.unlink(missing_ok=True)

    def tidy(self, number: int, place: str) -> None:
        """Remove what other attempts have left of a file of which the copy at ``place`` is kept; blocking."""
        for old in self._folder_of(number).glob(f"{number}.*"):
            if str(old) != place:
                old.unlink(missing_ok=True)

    async def disown(self, number: int, place: str) -> None:
        """Remove the copy at ``place``, which came too late, unless it is the one that is kept."""
        if not await self._store.read("a late copy", partial(is_kept, number=number, place=place)):
            await self._pool.run(Path(place).unlink, missing_ok=True)

    async def sweep(self) -> None:
        """Remove what was dropped."""
        while numbers := await self._store.read("dropped files", _dropped):
            await self._pool.run(self._remove, numbers)
            await self._store.run("forget dropped files", partial(_forget, numbers=numbers))

    def _remove(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            folder = self._folder_of(number)
            for each in (folder / str(number), *folder.glob(f"{number}.*")):
                each.unlink(missing_ok=True)


def _dropped(connection: Connection) -> list[int]:
    return list(connection.execute(select(holding.c.id).where(holding.c.state == DROPPED).limit(BATCH)).scalars())


def _forget(connection: Connection, numbers: Sequence[int]) -> None:
    connection.execute(delete(holding).where(holding.c.id.in_(numbers), holding.c.state == DROPPED))
