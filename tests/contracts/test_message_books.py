"""What is told of messages, on all three databases: that one was deleted, and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest_twisted
from sqlalchemy import Connection, delete, insert, text

from datahub.auth import Caller
from datahub.errors import NotFound
from datahub.events.feed import Feed
from datahub.events.summary import Tally
from datahub.events.tables import Wanted, find, number, tally
from datahub.kit.threads import InlinePool
from datahub.messages import tables
from datahub.messages.books import DELETED, Books
from datahub.messages.memory import Memory
from datahub.messages.model import digest_of
from datahub.messages.service import Messages
from datahub.messages.stores.database import DatabaseMessages
from datahub.store import Store
from datahub.store.migrations.versions import v0006_messages_counted as counted
from tests.stores import opened
from tests.waiting import until

NOW = 1_800_000_000_000
FOO = digest_of(b"foo")
CALLER = Caller("carol", "token", frozenset({"admin"}), "127.0.0.1", "r1")


class Hub:
    """As much of a hub as keeps messages, on a database that others share."""

    def __init__(self, store: Store, reactor: Any) -> None:
        self.feed = Feed(store, reactor)
        self.books = Books(store, lambda: NOW, self.feed.wake)
        self.kept = DatabaseMessages(store, self.books, reactor)
        trusted: Callable[[], bool] = lambda: self.feed.blind < 10  # noqa: E731 - as the hub says it
        self.messages = Messages(self.kept, Memory(100_000), InlinePool(), lambda: None, 1000, trusted)
        self.feed.listen(DELETED, self.messages.forget)
        self.feed.start()
        self.kept.start()

    async def stop(self) -> None:
        await self.kept.stop()
        await self.feed.stop()


@pytest_twisted.async_yield_fixture
async def store(database_url: str, reactor: Any) -> Any:
    """A started store."""
    async with opened(database_url, reactor) as store:
        yield store


async def number_all(store: Store) -> None:
    """Give positions to all events there are, and count them."""
    while await store.run("number", number):
        pass


async def test_a_message_that_another_hub_deletes(store: Store, reactor: Any) -> None:
    """It leaves this one's memory by itself, and an event says who deleted it."""
    here, there = Hub(store, reactor), Hub(store, reactor)
    try:
        await until(lambda: here.feed.blind < 10, "news of other hubs", 60)
        await here.messages.post(b"foo")
        assert here.messages.remembered(FOO) is not None
        await there.messages.delete(FOO, CALLER)
        await until(lambda: here.messages.remembered(FOO) is None, "its being forgotten", 60)
        try:
            await here.messages.find(FOO)
        except NotFound:
            pass
        else:
            raise AssertionError("it is found")
        [event] = await store.read("events", partial(find, wanted=Wanted(type=DELETED), limit=10))
        assert (event.subject, event.submitter, event.actor.request) == (FOO, "carol", "r1")
        assert (event.origin, event.to) == ("KEPT", "DELETED")
    finally:
        await here.stop()
        await there.stop()


async def test_the_sum(store: Store, reactor: Any) -> None:
    """What is new counts once, with its bytes; what is deleted counts no more, and deleting nothing is no event."""
    hub = Hub(store, reactor)
    try:
        await hub.messages.batch([b"foo", b"barbar", b"foo"])
        await hub.messages.post(b"foo")
        await hub.messages.post(b"bazbazbaz")
        await hub.messages.delete(FOO, CALLER)
        assert not await hub.kept.delete(FOO, None)  # type: ignore[arg-type]  # nobody is told of
    finally:
        await hub.stop()
    await number_all(store)
    summary = await hub.books.summary()
    assert summary.now == {"KEPT": Tally(2, 15), "DELETED": Tally(1, 0)}
    assert summary.last_day == summary.last_hour == {"KEPT": Tally(3, 18), "DELETED": Tally(1, 0)}


async def test_what_was_there_before_it_was_counted(store: Store) -> None:
    """A database of an older version is counted once when it is brought to this one."""

    def upgrade(connection: Connection) -> None:
        connection.execute(delete(tally))
        rows = [{"digest": digest_of(each), "content": each} for each in (b"foo", "\N{EURO SIGN}".encode(), b"")]
        connection.execute(insert(tables.message), rows)
        connection.execute(text(counted.STATEMENT))

    await store.run("upgrade", upgrade)
    assert (await Books(store, lambda: NOW, lambda: None).summary()).now == {"KEPT": Tally(3, 6)}
