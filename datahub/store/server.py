"""State in PostgreSQL or MariaDB: a pool of connections, and passing errors tried again."""

from __future__ import annotations

from collections.abc import Callable
from random import uniform
from time import sleep
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from twisted.logger import Logger

from datahub.errors import NoSpace, Unavailable
from datahub.kit.clock import monotonic
from datahub.kit.threads import ReactorPool
from datahub.store.engine import server_engine

__all__ = ["ServerStore"]

log = Logger()
T = TypeVar("T")

CONNECTIONS = 16
TRIES = 8
FIRST_PAUSE = 0.01
PATIENCE = 30.0
"""Seconds after which nothing is tried again: each try may have waited for the statement's time-out."""

CONTENTION = {"40001", "40P01", "55P03", "1213", "1205", "1020"}
"""Serialisation, deadlock and lock time-outs: SQLSTATEs of PostgreSQL, error numbers of MariaDB."""

TIMED_OUT = "57014"
"""PostgreSQL has cancelled a statement; MariaDB's connection is closed after as long a wait (2013)."""

FULL = {"53100", "1021", "1114"}
AWAY = {"57P01", "57P02", "57P03", "08000", "08003", "08006", "2002", "2003", "2006", "2013", "2055", "1053", "1927"}


class ServerStore:
    """The port `datahub.store.Store` on a database server that other hubs use too."""

    def __init__(self, url: str, reactor: Any, *, connections: int = CONNECTIONS) -> None:
        self._engine = server_engine(url, size=connections)
        self._pool = ReactorPool("store", connections, reactor)
        self._running = False

    def start(self) -> None:
        """Take up work."""
        self._running = True
        self._pool.start()

    async def run(self, name: str, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction of its own; contention and lost connections are tried again."""
        if not self._running:
            raise Unavailable("the database is closed: the hub is stopping")
        return await self._pool.run(self._persist, name, work)

    read = run

    async def stop(self) -> None:
        """Wait for the transactions under way and close the connections."""
        self._running = False
        await self._pool.stop()
        self._engine.dispose()

    def _persist(self, name: str, work: Callable[[Connection], T]) -> T:
        """Try until it is committed, a caller's error is found, or the server stays away."""
        begun = monotonic()
        for attempt in range(1, TRIES + 1):
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                fault, passing = told(name, error)
                if not passing or attempt == TRIES or monotonic() - begun > PATIENCE:
                    raise fault from error
                log.debug("{name}: {error}; trying again", name=name, error=str(error.orig))
            except PoolTimeoutError as error:
                raise Unavailable(f"the database is too slow to {name}: all connections are busy") from error
            sleep(uniform(0, FIRST_PAUSE * 2**attempt))
        raise AssertionError("the loop returns or raises")


def told(name: str, error: DBAPIError) -> tuple[BaseException, bool]:
    """The error in the hub's words, and whether another try may help."""
    code = _code(error)
    if code in CONTENTION:
        return Unavailable(f"the database was too busy to {name}: {error.orig}"), True
    if code == TIMED_OUT:
        return Unavailable(f"the database took too long to {name}: {error.orig}"), False
    if code in FULL:
        return NoSpace(f"the database has no room to {name}: free space on its disk"), False
    if _is_away(error, code):
        return Unavailable(f"the database is away and could not {name}: {error.orig}"), True
    return error, False


def _is_away(error: DBAPIError, code: str) -> bool:
    return (
        error.connection_invalidated
        or code in AWAY
        or (not code and isinstance(error, OperationalError | InterfaceError))
    )


def _code(error: DBAPIError) -> str:
    """PostgreSQL's SQLSTATE or MariaDB's error number; empty when no server answered."""
    state = getattr(error.orig, "sqlstate", None)
    if state is None and error.orig is not None and error.orig.args and isinstance(error.orig.args[0], int):
        state = str(error.orig.args[0])
    return state or ""
