"""Group commit on SQLite: many callers, one commit, and no answer that is not on disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection, delete, func, insert, select

from datahub.errors import NoSpace, StartError, Unavailable
from datahub.kit.aio import gather, start
from datahub.store.engine import sqlite_path
from datahub.store.opening import open_database
from datahub.store.settings import setting
from datahub.store.sqlite import KEPT_PAGES, SqliteStore
from tests.stores import opened


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a database file that is not there yet."""
    return f"sqlite:///{tmp_path / 'hub.sqlite'}"


@pytest_twisted.async_yield_fixture
async def store(url: str, reactor: Any) -> Any:
    """A started store."""
    async with opened(url, reactor) as store:
        yield store


def put(connection: Connection, name: str, size: int = 10) -> str:
    """Write a setting of ``size`` bytes."""
    connection.execute(insert(setting), {"name": name, "value": "x" * size})
    return name


def names(connection: Connection) -> set[str]:
    """The names of all settings."""
    return set(connection.execute(select(setting.c.name)).scalars())


async def hold_the_writer(store: SqliteStore) -> Event:
    """Keep the writer's thread busy until the event is set, so that what comes meanwhile makes one group."""
    held, go = Event(), Event()

    def hold(_: Connection) -> None:
        held.set()
        go.wait(45)

    start(store.run("hold", hold))
    await start(store.read("wait until it is held", lambda _: held.wait(45)))
    return go


def record_groups(store: SqliteStore) -> list[list[str]]:
    """The names of the units of each group that is committed from now on."""
    groups: list[list[str]] = []
    attempt = store._attempt

    def record(group: list[Any]) -> list[Any]:
        groups.append([unit.name for unit in group])
        return attempt(group)

    store._attempt = record  # type: ignore[method-assign]
    return groups


async def test_waiting_units_share_a_commit(store: SqliteStore, url: str) -> None:
    """Fifty callers that wait cost far fewer transactions than fifty."""
    await store.run("count commits", lambda c: c.exec_driver_sql("CREATE TABLE tick (n)"))
    go = await hold_the_writer(store)
    groups = record_groups(store)
    waiting = [start(store.run("put", partial(put, name=str(number)))) for number in range(50)]
    go.set()
    for each in waiting:
        await each
    assert sum(len(group) for group in groups) == 50
    assert len(groups) <= 2


@pytest.mark.parametrize("full_at", range(6))
async def test_nobody_is_told_what_is_not_on_disk(store: SqliteStore, full_at: int) -> None:
    """The file is full within any unit of a group: those told "done" are on disk, the others are told why."""
    pages = await store.run("pages", lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
    await store.run("limit", lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages + 20}").scalar())
    go = await hold_the_writer(store)
    sizes = [2_000_000 if number == full_at else 100 for number in range(6)]
    waiting = [start(store.run(f"put {n}", partial(put, name=str(n), size=size))) for n, size in enumerate(sizes)]
    answered = [each.addErrback(lambda failure: failure.type) for each in waiting]
    go.set()
    answers = [await each for each in answered]
    told = {answer for answer in answers if isinstance(answer, str)}
    assert answers[full_at] is NoSpace
    assert told == {str(number) for number in range(6) if number != full_at}
    assert await store.read("names", names) == told


async def test_a_commit_that_fails_is_told_to_all_it_concerns(store: SqliteStore) -> None:
    """When COMMIT itself fails, each unit is run again alone; what still fails is told, the rest is on disk."""
    failing = {"left": 1}
    whole = store._attempt

    def fail_once(group: list[Any]) -> list[Any]:
        answers = whole(group)
        if len(group) > 1 and failing["left"]:
            failing["left"] -= 1
            raise Unavailable("the disk hiccuped")
        return answers

    go = await hold_the_writer(store)
    waiting = [start(store.run("put", partial(put, name=str(number)))) for number in range(3)]

    def void_the_group(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.execute("ROLLBACK")
        raise KeyError("SQLite has ended the transaction")

    waiting.append(start(store.run("void", void_the_group)).addErrback(lambda failure: failure.check(KeyError)))
    store._attempt = fail_once  # type: ignore[method-assign]
    go.set()
    assert [await each for each in waiting] == ["0", "1", "2", KeyError]
    assert await store.read("names", names) == {"0", "1", "2"}


async def test_a_slow_unit_comes_alone_and_is_forgiven(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that was slow runs in a group of its own until it is quick again."""
    # What is quick is so on a busy machine, too.
    monkeypatch.setattr("datahub.store.sqlite.SLOW_UNIT", 0.5)
    await store.run("slow", lambda _: Event().wait(0.6))
    assert store._slow == {"slow"}
    go = await hold_the_writer(store)
    waiting = [start(store.run(name, lambda _: None)) for name in ("a", "slow", "b")]
    groups = record_groups(store)
    go.set()
    for each in waiting:
        await each
    assert groups == [["a"], ["slow"], ["b"]]
    assert "slow" not in store._slow


async def test_a_reader_does_not_wait_for_the_writer(store: SqliteStore) -> None:
    """Reads are answered while a transaction is open, and do not see it."""
    inside, go = Event(), Event()

    def hold(connection: Connection) -> None:
        put(connection, "hidden")
        inside.set()
        go.wait(45)

    writing = start(store.run("hold", hold))
    await start(store.read("wait", lambda _: inside.wait(45)))
    assert await store.read("names", names) == set()
    go.set()
    await writing
    assert await store.read("names", names) == {"hidden"}


async def test_a_reader_can_not_write(store: SqliteStore) -> None:
    """A transaction declared as reading that writes is a fault, not a lost update."""
    with pytest.raises(Unavailable, match="readonly"):
        await store.read("put", partial(put, name="a"))


async def test_a_stopped_store_says_so(url: str, reactor: Any) -> None:
    """After the stop, work is refused; what waited before was done."""
    async with opened(url, reactor) as store:
        waiting = [start(store.run("put", partial(put, name=str(number)))) for number in range(5)]
    assert [await each for each in waiting] == ["0", "1", "2", "3", "4"]
    with pytest.raises(Unavailable, match="stopping"):
        await store.run("put", partial(put, name="late"))


async def test_thousands_of_waiting_units_are_all_answered(store: SqliteStore) -> None:
    """More than fit in a group."""
    await gather(*(store.run("put", partial(put, name=str(number))) for number in range(2000)))
    assert await store.read("count", lambda c: c.execute(select(func.count()).select_from(setting)).scalar()) == 2000


def test_a_second_daemon_is_refused(url: str) -> None:
    """SQLite's file serves one process: the second is told which one has it and what to do."""
    engine, lock = open_database(url, 1, lambda _: None)
    with pytest.raises(StartError, match=r"in use by process \d+.*PostgreSQL or MariaDB"):
        open_database(url, 1, lambda _: None)
    engine.dispose()
    assert lock is not None
    lock.release()


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be read as one" * 100])
def test_a_file_that_is_no_database(url: str, content: bytes) -> None:
    """An empty file becomes a database; anything else is refused and left as it was."""
    sqlite_path(url).write_bytes(content)
    if not content:
        engine, lock = open_database(url, 1, lambda _: None)
        engine.dispose()
        assert lock is not None
        lock.release()
        return
    with pytest.raises(StartError, match="not a database"):
        open_database(url, 1, lambda _: None)
    assert sqlite_path(url).read_bytes() == content


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The text names the path and the key to look at."""
    with pytest.raises(StartError, match=r"nowhere.*No such file or directory.*\[database\] url"):
        open_database(f"sqlite:///{tmp_path}/nowhere/hub.sqlite", 1, lambda _: None)


def test_a_server_that_is_away_is_waited_for() -> None:
    """It is tried for as long as it was told, then refused in one line without the password."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        Event().wait(seconds)

    url = "postgresql+psycopg://alice:secret@127.0.0.1:1/hub"
    with pytest.raises(StartError, match="did not answer for") as refused:
        open_database(url, 2.5, pause)
    assert len(pauses) >= 2
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_file_that_shrinks_again(store: SqliteStore, url: str) -> None:
    """What was removed is given back to the disk in small steps, while others write; some pages are kept for them."""
    for number in range(20):
        await store.run("put", partial(put, name=str(number), size=1_000_000))
    await store.run("remove", lambda c: c.execute(delete(setting)).rowcount)
    giving = start(store.give_back_space())
    await store.run("put", partial(put, name="new"))
    assert await giving > 3000
    assert await store.read("names", names) == {"new"}
    free = await store.read("free", lambda c: c.exec_driver_sql("PRAGMA freelist_count").scalar_one())
    assert free <= KEPT_PAGES
    assert await store.give_back_space() == 0
    await store.stop()
    assert sqlite_path(url).stat().st_size < 10_000_000
