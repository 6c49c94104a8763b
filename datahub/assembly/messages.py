"""Messages: in the hub's database, or in Redis."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from datahub.assembly import Capability, House
from datahub.config import Config
from datahub.messages.books import DELETED, Books
from datahub.messages.memory import Memory
from datahub.messages.routes import MessageRoutes
from datahub.messages.service import Messages
from datahub.messages.stores import MessageStore
from datahub.messages.stores.database import DatabaseMessages, check_packets
from datahub.store import Store
from datahub.store.engine import is_sqlite

__all__ = ["build", "declare"]

DATABASE = "database:"
# Seconds without news of what other hubs delete, after which the memory of messages is not believed any more.
LONG_BLIND = 10.0


def declare(connection: Connection, config: Config) -> None:
    """See that the database server takes the largest message; raises `StartError`."""
    if config.serves("messages") and config.messages.url == DATABASE:
        check_packets(connection, config.messages.limit)


def build(house: House) -> Capability:
    """Messages as the configuration wants them."""
    section = house.config.messages
    books = Books(house.store, house.clock.wall, house.floor.changed)
    kept = _make_store(section.url, house.store, books, house.reactor)
    # What another server keeps takes no room here.
    admit = house.reserve.admit if section.url == DATABASE else _admit_all
    alone = is_sqlite(house.config.database.url) and section.url == DATABASE
    messages = Messages(
        kept, Memory(section.cache), house.disk, admit, section.limit, lambda: alone or house.feed.blind < LONG_BLIND
    )
    house.feed.listen(DELETED, messages.forget)
    return Capability(
        app=MessageRoutes(messages).app,
        parts={"message store": kept},
        summarise=books.summary,
        checks={"messages": messages.check},
    )


def _make_store(url: str, store: Store, books: Books, reactor: Any) -> MessageStore:
    if url == DATABASE:
        return DatabaseMessages(store, books, reactor)
    # Imported only where it is used, as the hub does without it.
    from datahub.messages.stores.redis import RedisMessages

    return RedisMessages(url, books, reactor)


def _admit_all() -> None: ...
