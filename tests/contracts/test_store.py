"""What every store promises, on SQLite, PostgreSQL and MariaDB alike."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection, func, insert, inspect, select, update

from datahub.errors import Conflict, StartError
from datahub.kit.aio import gather
from datahub.store import Store
from datahub.store.engine import is_sqlite, server_engine, sqlite_engine
from datahub.store.requests import Request, forget, once, requests
from datahub.store.schema import HEAD, metadata, migrate
from datahub.store.settings import setting
from tests.stores import opened


@pytest_twisted.async_yield_fixture
async def store(database_url: str, reactor: Any) -> Any:
    """A started store on a fresh database."""
    async with opened(database_url, reactor) as store:
        yield store


def put(connection: Connection, name: str, value: str) -> str:
    """Write a setting."""
    connection.execute(insert(setting), {"name": name, "value": value})
    return value


def value_of(connection: Connection, name: str) -> str | None:
    """Read a setting."""
    return connection.execute(select(setting.c.value).where(setting.c.name == name)).scalar()


def increment(connection: Connection) -> int:
    """Read a number under its row's lock, add one, write it: what loses updates if anything does."""
    wanted = select(setting.c.value).where(setting.c.name == "n").with_for_update()
    number = int(connection.execute(wanted).scalar_one()) + 1
    connection.execute(update(setting).where(setting.c.name == "n").values(value=str(number)))
    return number


async def test_committed_work_is_read_back(store: Store) -> None:
    """What run gave is there for the next reader."""
    assert await store.run("put", partial(put, name="a", value="1")) == "1"
    assert await store.read("get", partial(value_of, name="a")) == "1"


async def test_a_failing_unit_leaves_nothing(store: Store) -> None:
    """What a unit raises reaches its caller, and nothing of it is kept."""

    def fail(connection: Connection) -> None:
        put(connection, "a", "1")
        raise KeyError("wrong")

    with pytest.raises(KeyError):
        await store.run("fail", fail)
    assert await store.read("get", partial(value_of, name="a")) is None


async def test_a_failing_unit_spoils_no_other(store: Store) -> None:
    """Units that wait together are committed without the one that fails."""

    def fail(connection: Connection) -> str:
        put(connection, "bad", "1")
        raise KeyError("wrong")

    async def caught() -> str:
        with pytest.raises(KeyError):
            await store.run("fail", fail)
        return "failed"

    good = [store.run("put", partial(put, name=str(number), value="1")) for number in range(20)]
    results = await gather(*good[:10], caught(), *good[10:])
    assert results == ["1"] * 10 + ["failed"] + ["1"] * 10
    assert await store.read("count", lambda c: c.execute(select(func.count()).select_from(setting)).scalar()) == 20


async def test_no_update_is_lost(store: Store) -> None:
    """200 increments at once make 200."""
    await store.run("put", partial(put, name="n", value="0"))
    await gather(*(store.run("increment", increment) for _ in range(200)))
    assert await store.read("get", partial(value_of, name="n")) == "200"


async def test_names_compare_by_their_bytes(store: Store) -> None:
    """Upper and lower case, and accents, make different keys on every database."""
    for name in ("alice", "Alice", "älice"):
        await store.run("put", partial(put, name=name, value=name))
    assert await store.read("get", partial(value_of, name="Alice")) == "Alice"


async def test_all_of_unicode_is_kept(store: Store) -> None:
    """Astral characters, control characters and long texts come back as they went in."""
    text = "a\u0001\u2028\U0001d518\U0001f680" * 5000
    await store.run("put", partial(put, name="text", value=text))
    assert await store.read("get", partial(value_of, name="text")) == text


async def test_one_idempotency_key_gives_one_answer(store: Store) -> None:
    """Of many callers with one key at once, one is the first and all the others get its answer."""
    request = Request("alice", "key-1", "submit", "d1")

    async def ask(answer: str) -> str:
        given = await store.run("once", partial(once, request=request, status=202, answer=answer, at=1))
        return answer if given is None else given

    answers = await gather(*(ask(str(number)) for number in range(16)))
    assert len(set(answers)) == 1


async def test_a_key_for_another_request_is_a_conflict(store: Store) -> None:
    """The same key with another body is refused, and another caller's same key is not."""
    await store.run("once", partial(once, request=Request("alice", "k", "r", "d1"), status=202, answer="1", at=1))
    with pytest.raises(Conflict, match="Idempotency-Key 'k'"):
        await store.run("once", partial(once, request=Request("alice", "k", "r", "d2"), status=202, answer="2", at=1))
    other = partial(once, request=Request("bob", "k", "r", "d2"), status=202, answer="2", at=1)
    assert await store.run("once", other) is None


async def test_old_keys_are_forgotten(store: Store) -> None:
    """Keys from before the given time go, later ones stay."""
    for at in (10, 20):
        request = Request("alice", str(at), "r", "d")
        await store.run("once", partial(once, request=request, status=202, answer="1", at=at))
    assert await store.run("forget", partial(forget, before=15)) == 1
    assert await store.read("keys", lambda c: list(c.execute(select(requests.c.key)).scalars())) == ["20"]


async def test_the_schema_is_what_the_tables_say(store: Store, database_url: str) -> None:
    """The migrations make exactly the tables, columns and indexes the code knows."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    import datahub.archive.cache
    import datahub.carts.line
    import datahub.jobs.tables
    import datahub.messages.tables
    import datahub.transfers.claims
    import datahub.transfers.file_tables
    import datahub.transfers.flights
    import datahub.transfers.tables  # noqa: F401 - all register their tables

    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert await store.read("compare", differences) == []


def test_head_is_the_newest_revision() -> None:
    """The constant that spares alembic's import is the newest revision there is."""
    from alembic.script import ScriptDirectory

    from datahub.store.migrations import _config

    assert ScriptDirectory.from_config(_config()).get_heads() == [HEAD]


def test_a_database_of_a_newer_version_is_refused(database_url: str) -> None:
    """The text names the database and both revisions; nothing is changed."""
    engine = (
        sqlite_engine(database_url, writes=True) if is_sqlite(database_url) else server_engine(database_url, size=2)
    )
    migrate(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartError, match=r"newer datahub \(revision 9999.*install that version"):
        migrate(engine)
    assert inspect(engine).has_table("work")
    engine.dispose()
