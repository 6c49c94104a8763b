"""What a copy tells of its files, written down while it goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.errors import DatahubError, NoSpace, Superseded, Unavailable
from datahub.kit.aio import Task, fired
from datahub.store import Store
from datahub.transfers import file_tables
from datahub.transfers.model import FileRecord, printable
from datahub.transfers.movers import CopiedFile
from datahub.work import Item, ledger

__all__ = ["Filing"]

log = Logger()

EVERY = 1.0
BATCH = 1000


class Filing:
    """Takes notes from whoever copies, and writes them in batches: a million files need little memory.

    The files of a product that is copied within a second are written with its facts, in one transaction.
    """

    def __init__(self, store: Store, item: Item, owner: str) -> None:
        self._store = store
        self._item = item
        self._owner = owner
        self._told: deque[FileRecord] = deque()
        self._open: CopiedFile | None = None
        self._count = 0
        self._written = 0
        self._ended: Deferred[None] = Deferred()

    def note(self, file: CopiedFile) -> None:
        """Take note of a file that has begun, or is copied; called in any thread."""
        if file.checksum is None:
            self._open = file
            return
        self._open = None
        self._told.append(FileRecord(self._count, printable(file.path), file.size, file.checksum, None))
        self._count += 1

    @asynccontextmanager
    async def kept(self, clock: IReactorTime) -> AsyncIterator[None]:
        """Write what is new each second while the block runs."""
        writing = Task(f"the files of {self._item.subject}", self._keep_writing(clock))
        try:
            yield
        finally:
            # Not cancelled: a transaction under way would come to its end beside those that follow.
            self._ended.callback(None)
            await writing.ended()

    async def _keep_writing(self, clock: IReactorTime) -> None:
        while not await fired(self._ended, EVERY, clock):
            try:
                await self._write_batches(least=1)
            except Superseded:
                return
            except (Unavailable, NoSpace) as error:
                log.debug("the files of {subject} wait: {error}", subject=self._item.subject, error=str(error))

    async def end(self) -> Callable[[Connection], None]:
        """Write all but a last batch; gives what writes that, for the transaction that ends the copy."""
        await self._write_batches(least=BATCH)
        return self._put(self._next())

    async def fail(self, reason: str) -> None:
        """Write down that the file that was begun last failed for ``reason``."""
        file, self._open = self._open, None
        if file is not None:
            self._told.append(FileRecord(self._count, printable(file.path), file.size, None, reason))
        try:
            await self._write_batches(least=1)
        except (Superseded, Unavailable, NoSpace) as error:
            log.debug("no list of {subject}'s files: {error}", subject=self._item.subject, error=str(error))

    async def _write_batches(self, least: int) -> None:
        while len(self._told) >= least:
            batch = self._next()
            try:
                await self._store.run("keep copied files", partial(self._write, self._put(batch)))
            except DatahubError:
                self._told.extendleft(reversed(batch))
                raise
            self._written += len(batch)

    def _next(self) -> list[FileRecord]:
        return [self._told.popleft() for _ in range(min(BATCH, len(self._told)))]

    def _put(self, batch: list[FileRecord]) -> Callable[[Connection], None]:
        return partial(file_tables.put, job=self._item.subject, first=self._written, files=batch)

    def _write(self, put: Callable[[Connection], None], connection: Connection) -> None:
        ledger.hold(connection, self._item, self._owner)
        put(connection)
