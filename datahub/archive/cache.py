"""Files of a remote archive that are kept here: one copy for all who want it, within the room there is.

A row for each file says what is known of it, who fetches it, and how many use it; its bytes lie in a folder under its
number and that of the attempt that fetched them. What nobody uses any more is dropped: first the row says so, then the
file goes, then the row.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    Update,
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
from datahub.store.dialect import Direct, insert_if_absent
from datahub.store.schema import BigId, table
from datahub.store.settings import setting

__all__ = ["DROPPED", "HELD", "KNOWN", "NEW", "RESERVED", "Cache", "Draft", "Holding", "holding"]

NEW, KNOWN, RESERVED, HELD, DROPPED = "new", "known", "reserved", "held", "dropped"
SPACE: Final = "carts.space"
BATCH: Final = 200
FOLDERS: Final = 256
IN_A_ROW: Final = 64
"""Files of neighbouring numbers in one folder."""
PART: Final = ".part"
NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

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


_among = holding.c.name_key.in_(bindparam("keys", expanding=True))
_locked = select(holding.c.id, holding.c.name_key).where(_among).order_by(holding.c.name_key).with_for_update()
_more = Direct(
    update(holding).where(holding.c.id == bindparam("its_id")).values(users=holding.c.users + bindparam("more"))
)


def use(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Count one more user of files of the archive for each time they are named, and give their numbers.

    Nobody drops them as long as he is counted.
    """
    keys = {name: _key(name) for name in names}
    times = Counter(keys[name] for name in names)
    numbers: dict[str, int] = {}
    while lacking := sorted(times.keys() - numbers.keys()):
        found = connection.execute(_locked, {"keys": lacking}).all()
        if found:
            _more.many(connection, [{"its_id": row.id, "more": times[row.name_key]} for row in found])
            numbers |= {row.name_key: int(row.id) for row in found}
        for name, key in keys.items():
            if key not in numbers:
                new = {"name_key": key, "name": name, "state": NEW, "users": 0, "attempts": 0, "due": 0}
                insert_if_absent(connection, holding, new)
    return {name: numbers[key] for name, key in keys.items()}


def _key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


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
    mine = {"its_id": known.id, "its_state": known.state, "its_owner": claimant}
    new = {f"new_{name}": value for name, value in values.items()}
    if connection.execute(_change_of(tuple(values)), {**mine, **new}).rowcount != 1:
        raise Superseded(f"{known.name!r} is not seen to here any more")


@functools.cache
def _change_of(names: tuple[str, ...]) -> Update:
    """The statement, built once for each set of columns."""
    mine = (
        holding.c.id == bindparam("its_id"),
        holding.c.state == bindparam("its_state"),
        holding.c.owner == bindparam("its_owner"),
    )
    return update(holding).where(*mine).values({name: bindparam(f"new_{name}") for name in names})


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


def told(facts: Facts) -> dict[str, Any]:
    """Facts as columns."""
    return {
        "facts": f"{facts.device}:{facts.inode}:{facts.ctime_ns}",
        "place": url_of_path(facts.place),
        "size": facts.size,
        "mtime_ns": facts.mtime_ns,
    }


@dataclass(frozen=True, slots=True)
class Draft:
    """A copy under way: the number of its file, the open temporary file, and where that is."""

    number: int
    opened: int
    path: Path

    @property
    def final(self) -> Path:
        """Where it lies once it is complete."""
        return self.path.with_suffix("")


class Cache:
    """The folder of the copies; ``space`` is how many bytes they may take together."""

    def __init__(self, store: Store, folder: Path, space: int, pool: Pool) -> None:
        self._store = store
        self._folder = folder
        self._pool = pool
        self.space = space

    def _folder_of(self, number: int) -> Path:
        # Neighbours lie together: who keeps many at once makes few folders durable.
        return self._folder / f"{number // IN_A_ROW % FOLDERS:02x}"

    def begin(self, numbers: Sequence[int], label: str) -> list[Draft]:
        """Open new temporary files for copies, of this attempt alone; blocking. Older attempts' are removed."""
        drafts: list[Draft] = []
        try:
            for folder, mine in self._by_folder(numbers).items():
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
                _unlink(each for each in _copies(folder, mine) if each.suffix == PART)
            for number in numbers:
                path = self._folder_of(number) / f"{number}.{label}{PART}"
                drafts.append(Draft(number, os.open(path, NEW_FILE, 0o640), path))
        except BaseException:
            self.let_go(drafts)
            raise
        return drafts

    def finish(self, drafts: Mapping[Draft, int]) -> list[Facts]:
        """Give complete copies their times (ns) and names, durably; blocking.

        No other attempt has such a name: what is kept stays.
        """
        for draft, mtime_ns in drafts.items():
            os.utime(draft.opened, ns=(mtime_ns, mtime_ns))
            os.fsync(draft.opened)
        for draft in drafts:
            draft.path.rename(draft.final)
        for folder in {draft.final.parent for draft in drafts}:
            _make_durable(folder)
        return [Facts.of(str(draft.final), os.fstat(draft.opened)) for draft in drafts]

    def let_go(self, drafts: Sequence[Draft]) -> None:
        """Close temporary files, and remove those that were not finished; blocking."""
        for draft in drafts:
            os.close(draft.opened)
            draft.path.unlink(missing_ok=True)

    def tidy(self, kept: Mapping[int, str]) -> None:
        """Remove what other attempts have left of files, by number, of which the copies at these places are kept.

        Blocking.
        """
        places = set(kept.values())
        for folder, mine in self._by_folder(kept).items():
            _unlink(each for each in _copies(folder, mine) if str(each) not in places)

    def _by_folder(self, numbers: Iterable[int]) -> dict[Path, set[int]]:
        found: dict[Path, set[int]] = {}
        for number in numbers:
            found.setdefault(self._folder_of(number), set()).add(number)
        return found

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
        for folder, mine in self._by_folder(numbers).items():
            _unlink(_copies(folder, mine))


def _copies(folder: Path, numbers: Collection[int]) -> list[Path]:
    """The copies of these files, and what attempts have left of them."""
    mine = {str(number) for number in numbers}
    try:
        return [each for each in folder.iterdir() if each.name.partition(".")[0] in mine]
    except FileNotFoundError:
        return []


def _unlink(paths: Iterable[Path]) -> None:
    for each in paths:
        each.unlink(missing_ok=True)


def _make_durable(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _dropped(connection: Connection) -> list[int]:
    return list(connection.execute(select(holding.c.id).where(holding.c.state == DROPPED).limit(BATCH)).scalars())


def _forget(connection: Connection, numbers: Sequence[int]) -> None:
    connection.execute(delete(holding).where(holding.c.id.in_(numbers), holding.c.state == DROPPED))
