"""A store on a fresh database, as the hub opens it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from datahub.store import Store
from datahub.store.engine import is_sqlite
from datahub.store.opening import open_database
from datahub.store.server import ServerStore
from datahub.store.sqlite import SqliteStore

__all__ = ["opened"]


@asynccontextmanager
async def opened(url: str, reactor: Any) -> AsyncIterator[Store]:
    """Give a started store on ``url``, its schema made, and stop it in the end."""
    engine, lock = open_database(url, 5, lambda _: None)
    engine.dispose()
    store: Store = SqliteStore(url, reactor) if is_sqlite(url) else ServerStore(url, reactor)
    store.start()
    try:
        yield store
    finally:
        await store.stop()
        if lock is not None:
            lock.release()
