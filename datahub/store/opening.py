"""Opening the database at start: waited for, held by this daemon alone if it is SQLite, and brought up to date."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from twisted.logger import Logger

from datahub.errors import StartError
from datahub.kit.clock import monotonic
from datahub.kit.locks import FileLock
from datahub.kit.sizes import format_duration
from datahub.store.engine import is_sqlite, server_engine, sqlite_engine, sqlite_path
from datahub.store.schema import migrate

__all__ = ["open_database"]

log = Logger()

PAUSE = 1.0


def open_database(url: str, wait: float, sleep: Callable[[float], object]) -> tuple[Engine, FileLock | None]:
    """An engine for the time of the start, on a database whose schema is this version's; blocking.

    A server that is away is tried for ``wait`` seconds. SQLite's file is locked for as long as the lock is
    kept. Raises `StartError`.
    """
    if is_sqlite(url):
        return _open_file(url)
    engine = server_engine(url, size=2)
    _wait_for(engine, wait, sleep)
    migrate(engine)
    return engine, None


def _open_file(url: str) -> tuple[Engine, FileLock]:
    path = sqlite_path(url)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        if not lock.acquire():
            raise StartError(
                f"the database {path} is in use by process {lock.holder()}: SQLite serves one daemon; stop that one, "
                "or use PostgreSQL or MariaDB in [database] url"
            )
        engine = sqlite_engine(url, writes=True)
        migrate(engine)
    except OSError as error:
        raise StartError(f"the database {path} can't be opened: {error.strerror}; check [database] url") from error
    except DBAPIError as error:
        raise StartError(
            f"the database {path} can't be opened: {error.orig}; check the file and [database] url"
        ) from error
    return engine, lock


def _wait_for(engine: Engine, wait: float, sleep: Callable[[float], object]) -> None:
    until = monotonic() + wait
    told = False
    while True:
        try:
            engine.connect().close()
            return
        except DBAPIError as error:
            if monotonic() + PAUSE > until:
                raise StartError(
                    f"the database {engine.url.render_as_string()} did not answer for {format_duration(wait)} "
                    f"({_first_line(error)}): start it, or check [database] url"
                ) from error
            if not told:
                log.warn("waiting for the database: {error}", error=_first_line(error))
                told = True
            sleep(PAUSE)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]
