"""PostgreSQL and MariaDB when something is wrong: what is tried again, and what is told."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from threading import Barrier, Event
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection, create_engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from datahub.errors import NoSpace, Unavailable
from datahub.kit.aio import gather, start
from datahub.kit.threads import ReactorPool
from datahub.store import engine as engine_module
from datahub.store.server import ServerStore, told
from datahub.store.settings import setting
from tests.servers import fresh_database
from tests.stores import opened

SERVERS = [pytest.param(each, marks=pytest.mark.engine) for each in ("postgresql", "mariadb")]
ID = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}
SLEEP = {"postgresql": "SELECT pg_sleep(30)", "mysql": "SELECT SLEEP(30)"}


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[str]:
    """The URL of a new database on a server."""
    with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest_twisted.async_yield_fixture
async def store(url: str, reactor: Any) -> Any:
    """A started store with two settings."""
    async with opened(url, reactor) as store:
        for name in ("a", "b"):
            await store.run("put", partial(put, name=name, value="0"))
        yield store


@pytest.fixture
def kill(url: str) -> Iterator[Any]:
    """End a connection of the store, from outside."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")

    def kill(number: int) -> None:
        with engine.connect() as connection:
            connection.execute(text(KILL[connection.dialect.name].format(number)))
        Event().wait(0.1)

    yield kill
    engine.dispose()


def put(connection: Connection, name: str, value: str) -> str:
    connection.execute(insert(setting), {"name": name, "value": value})
    return value


def add(connection: Connection, name: str) -> None:
    wanted = select(setting.c.value).where(setting.c.name == name).with_for_update()
    value = int(connection.execute(wanted).scalar_one()) + 1
    connection.execute(update(setting).where(setting.c.name == name).values(value=str(value)))


def values(connection: Connection) -> list[str]:
    return list(connection.execute(select(setting.c.value).order_by(setting.c.name)).scalars())


def number_of(connection: Connection) -> int:
    return int(connection.execute(text(ID[connection.dialect.name])).scalar_one())


async def test_a_deadlock_is_tried_again(store):
    """Two that lock the same rows crosswise both come to their end, each with its effect once."""
    together, tries = Barrier(2, timeout=45), []

    def cross(connection: Connection, first: str, second: str) -> None:
        tries.append(first)
        add(connection, first)
        if len(tries) <= 2:
            together.wait()
        add(connection, second)

    await gather(
        store.run("cross", partial(cross, first="a", second="b")),
        store.run("cross", partial(cross, first="b", second="a")),
    )
    assert len(tries) > 2
    assert await store.read("values", values) == ["2", "2"]


async def test_a_lost_connection_is_tried_again(store, kill):
    """Cut in the midst of a transaction: all of it is run anew on another connection, its effect is there once."""
    used = []

    def work(connection: Connection) -> None:
        used.append(number_of(connection))
        add(connection, "a")
        if len(used) == 1:
            kill(used[0])
        add(connection, "b")

    await store.run("work", work)
    assert len(set(used)) == len(used) == 2
    assert await store.read("values", values) == ["1", "1"]


async def test_connections_that_died_idle_are_replaced(store, kill):
    """As after a restart of the server: nobody who asks afterwards hears of it."""
    together = Barrier(4, timeout=45)

    def number(connection: Connection) -> int:
        found = number_of(connection)
        together.wait()
        return found

    numbers = await gather(*(store.run("number", number) for _ in range(4)))
    assert len(set(numbers)) == 4
    for each in numbers:
        kill(each)
    await gather(*(store.run("add", partial(add, name="a")) for _ in range(8)))
    assert (await store.read("values", values))[0] == "8"


async def test_a_connection_that_dies_each_time(store, kill):
    """Is told as what it is, after some tries; the store goes on."""
    tries = []

    def work(connection: Connection) -> None:
        tries.append(number_of(connection))
        kill(tries[-1])
        add(connection, "a")

    with pytest.raises(Unavailable, match="the database is away and could not work"):
        await store.run("work", work)
    assert len(tries) == 8
    assert await store.read("values", values) == ["0", "0"]


async def test_unique_errors_pass_through(store):
    """They are the caller's, at once and unchanged; nothing is kept, and nothing is tried again."""
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        add(connection, "b")
        put(connection, "a", "1")

    with pytest.raises(IntegrityError):
        await store.run("work", work)
    assert tries == [1]
    assert await store.read("values", values) == ["0", "0"]


async def test_a_wrong_statement_passes_through(store):
    """It is a fault of ours, not of the server."""
    with pytest.raises(ProgrammingError):
        await store.run("work", lambda c: c.execute(text("SELEKT 1")))


async def test_a_statement_that_hangs_is_given_up(url, reactor, monkeypatch):
    """No wait is endless: the caller is told within the limit, and the store goes on."""
    monkeypatch.setattr(engine_module, "STATEMENT_TIMEOUT", 1)
    monkeypatch.setattr("datahub.store.server.PATIENCE", 0.5)
    async with opened(url, reactor) as store:
        before = reactor.seconds()
        with pytest.raises(Unavailable, match=r"could not sleep|too long to sleep"):
            await store.run("sleep", lambda c: c.execute(text(SLEEP[c.dialect.name])).scalar())
        assert reactor.seconds() - before < 20
        assert await store.read("check", lambda c: c.execute(text("SELECT 1")).scalar()) == 1


async def test_when_all_connections_are_busy(url, reactor, monkeypatch):
    """Who waits too long for one is told so."""
    monkeypatch.setattr(engine_module, "CONNECT_TIMEOUT", 1)
    store = ServerStore(url, reactor, connections=1)
    store._pool = ReactorPool("two", 2, reactor)  # more threads than connections
    store.start()
    held, go = Event(), Event()

    def hold(_: Connection) -> None:
        held.set()
        go.wait(45)

    holding = start(store.run("hold", hold))
    held.wait(45)
    with pytest.raises(Unavailable, match="too slow to ask: all connections are busy"):
        await store.run("ask", values)
    go.set()
    await holding
    await store.stop()


@pytest.mark.parametrize("server", ["postgresql+psycopg", "mysql+pymysql"])
async def test_a_server_that_is_away(server, reactor):
    """Is told within seconds as Unavailable, without the password; a stopped store says that it is stopped."""
    store = ServerStore(f"{server}://alice:secret@127.0.0.1:1/hub", reactor, connections=2)
    with pytest.raises(Unavailable, match="the hub is stopping"):
        await store.run("values", values)
    store.start()
    before = reactor.seconds()
    with pytest.raises(Unavailable, match="the database is away and could not values") as refused:
        await store.run("values", values)
    assert reactor.seconds() - before < 45
    assert "secret" not in str(refused.value)
    await store.stop()
    with pytest.raises(Unavailable, match="the hub is stopping"):
        await store.read("values", values)


class Refused(Exception):
    """What a driver raises: PostgreSQL's with a state, MariaDB's with a number first."""

    def __init__(self, *args: Any, sqlstate: str | None = None) -> None:
        super().__init__(*args)
        if sqlstate:
            self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("original", "kind", "passing"),
    [
        (Refused("x", sqlstate="40001"), Unavailable, True),
        (Refused("x", sqlstate="40P01"), Unavailable, True),
        (Refused(1213, "Deadlock found"), Unavailable, True),
        (Refused(1205, "Lock wait timeout"), Unavailable, True),
        (Refused("x", sqlstate="57P01"), Unavailable, True),
        (Refused("x", sqlstate="57014"), Unavailable, False),
        (Refused(2006, "gone away"), Unavailable, True),
        (Refused("x", sqlstate="53100"), NoSpace, False),
        (Refused(1114, "The table is full"), NoSpace, False),
        (Refused(1021, "Disk full"), NoSpace, False),
        (Refused("x", sqlstate="23505"), DBAPIError, False),
        (Refused(1062, "Duplicate entry"), DBAPIError, False),
        (Refused(), DBAPIError, False),
    ],
)
def test_errors_in_the_hubs_words(original, kind, passing):
    """What each code of either server means, and whether another try may help."""
    fault, again = told("submit", DBAPIError("INSERT", {}, original))
    assert type(fault) is kind
    assert again is passing
