"""State in one SQLite file: a single writer that commits whatever waits in one group, and readers beside it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from datahub.errors import NoSpace, Unavailable
from datahub.kit.threads import ReactorPool
from datahub.store.engine import sqlite_engine, sqlite_path

__all__ = ["SqliteStore"]

log = Logger()
T = TypeVar("T")

LARGEST_GROUP = 256
SLOW_UNIT = 0.020
READERS = 4
KEPT_PAGES = 1000
STEP_PAGES = 200


@dataclass(frozen=True, slots=True)
class Unit:
    """One caller's transaction, waiting for the writer."""

    name: str
    work: Callable[[Connection], Any]
    answer: Deferred[Any]


class GroupVoid(Exception):
    """SQLite has ended the transaction by itself: nothing of the group is on disk."""


class SqliteStore:
    """The port `datahub.store.Store` on one file, for one process.

    All units that wait are run between ``SAVEPOINT`` and ``RELEASE`` and committed together: a commit with
    ``synchronous=FULL`` costs more than the work of many. Answers go out after the commit only.
    """

    def __init__(self, url: str, reactor: Any) -> None:
        self._reactor = reactor
        self._folder = sqlite_path(url).parent
        self._writer_engine = sqlite_engine(url, writes=True)
        self._reader_engine = sqlite_engine(url, writes=False)
        self._readers = ReactorPool("store.read", READERS, reactor)
        self._waiting: SimpleQueue[Unit | None] = SimpleQueue()
        self._held: list[Unit | None] = []
        self._slow: set[str] = set()
        self._writer = Thread(target=self._write, name="store.write", daemon=True)
        self._running = False

    def start(self) -> None:
        """Take up work."""
        self._running = True
        self._readers.start()
        self._writer.start()

    async def run(self, name: str, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in the next group; its value comes when the group is on disk."""
        if not self._running:
            raise Unavailable("the database is closed: the hub is stopping")
        answer: Deferred[T] = Deferred()
        self._waiting.put(Unit(name, work, answer))
        return await answer

    async def read(self, name: str, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on a snapshot, beside the writer."""
        if not self._running:
            raise Unavailable("the database is closed: the hub is stopping")
        return await self._readers.run(self._read, name, work)

    def _read(self, name: str, work: Callable[[Connection], T]) -> T:
        try:
            with self._reader_engine.connect() as connection, connection.begin():
                return work(connection)
        except (DBAPIError, sqlite3.Error) as error:
            raise told(name, error, self._folder) from error

    async def give_back_space(self) -> int:
        """Give pages of the file that nothing needs any more back to the disk; how many.

        In steps, each a unit of its own, so that nobody waits long. Some are kept: they are soon needed again.
        """
        given = 0
        while count := await self.run("give back space", _give_back_pages):
            given += count
        if given:
            log.info("{count} pages of the database were given back to the disk", count=given)
        return given

    async def stop(self) -> None:
        """Commit what waits, end the threads and close the file."""
        if not self._running:
            return
        self._running = False
        ended: Deferred[None] = Deferred()
        self._waiting.put(Unit("close the store", lambda _: None, ended))
        self._waiting.put(None)
        await ended
        self._writer.join()
        await self._readers.stop()
        self._reader_engine.dispose()
        self._writer_engine.dispose()

    def _write(self) -> None:
        """The writer's thread."""
        while group := self._next_group():
            answers = self._commit_together(group)
            self._reactor.callFromThread(deliver, group, answers)

    def _next_group(self) -> list[Unit]:
        """All that waits, up to `LARGEST_GROUP`; a unit known to be slow comes alone, so that it delays no other."""
        first = self._held.pop() if self._held else self._waiting.get()
        if first is None:
            return []
        group = [first]
        while first.name not in self._slow and len(group) < LARGEST_GROUP:
            try:
                unit = self._waiting.get_nowait()
            except Empty:
                break
            if unit is None or unit.name in self._slow:
                self._held.append(unit)
                break
            group.append(unit)
        return group

    def _commit_together(self, group: list[Unit]) -> list[Any]:
        try:
            return self._attempt(group)
        except Exception as error:
            if len(group) == 1:
                return [Failure(told(group[0].name, error, self._folder))]
            log.warn(
                "a group of {count} transactions is void and run one by one: {error}",
                count=len(group),
                error=str(error),
            )
        return [self._commit_together([unit])[0] for unit in group]

    def _attempt(self, group: list[Unit]) -> list[Any]:
        """Run ``group`` in one transaction; raises when nothing of it is on disk."""
        with self._writer_engine.connect() as connection, connection.begin():
            return [self._run_unit(connection, unit) for unit in group]

    def _run_unit(self, connection: Connection, unit: Unit) -> Any:
        # SAVEPOINT on the driver's connection: SQLAlchemy's begin_nested costs 3.5 times as much.
        driver: Any = connection.connection.driver_connection
        driver.execute("SAVEPOINT unit")
        begun = perf_counter()
        try:
            value = unit.work(connection)
        except Exception as error:
            value = Failure(told(unit.name, error, self._folder))
            if not driver.in_transaction:
                raise GroupVoid(str(error)) from error
            driver.execute("ROLLBACK TO unit")
        driver.execute("RELEASE unit")
        self._remember_speed(unit.name, perf_counter() - begun)
        return value

    def _remember_speed(self, name: str, seconds: float) -> None:
        if seconds > SLOW_UNIT:
            self._slow.add(name)
        elif name in self._slow:
            self._slow.discard(name)


def _give_back_pages(connection: Connection) -> int:
    free: int = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    count = min(free - KEPT_PAGES, STEP_PAGES)
    if count <= 0:
        return 0
    driver: Any = connection.connection.driver_connection
    for _ in range(count):
        # Whatever number it is given, it gives back one page at a step, and the driver makes one step only.
        driver.execute("PRAGMA incremental_vacuum(1)")
    left: int = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    return free - left


def deliver(group: list[Unit], answers: list[Any]) -> None:
    """Answer each unit of a group, in the reactor's thread."""
    for unit, answer in zip(group, answers, strict=True):
        if not unit.answer.called:
            unit.answer.callback(answer)


def told(name: str, error: BaseException, folder: Path) -> BaseException:
    """SQLite's error in the hub's words, where the hub knows what it means; its file is in ``folder``."""
    if isinstance(error, GroupVoid) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    orig = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(orig, sqlite3.Error):
        return error
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    code = getattr(orig, "sqlite_errorname", "")
    if code.startswith("SQLITE_FULL"):
        return NoSpace(f"the database has no room to {name}: {free} bytes are free on its disk; free some space")
    if code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable(f"the database could not {name}: {orig}")
    return error
