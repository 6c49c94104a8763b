"""What every store of messages promises, held by each: the three databases, and Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from datahub.events import HUB
from datahub.kit.aio import gather
from datahub.messages.books import Books
from datahub.messages.model import digest_of
from datahub.messages.stores import MessageStore
from datahub.messages.stores.database import DatabaseMessages
from datahub.messages.stores.redis import RedisMessages
from tests.servers import ENGINES, fresh_database, redis_url
from tests.stores import opened

NOW = 1_800_000_000_000
ALL_BYTES = bytes(range(256))
# What a store might take for something else: nothing, a number, an end of line, a NUL, no text at all.
ODD = [b"", b"0", b"-12.5", b"\r\n", b"\0", b"\xff\xfe", "é€😀".encode(), ALL_BYTES * 100, b"x" * 1_000_000]

Open = Callable[[], AbstractAsyncContextManager[MessageStore]]


def named(*contents: bytes) -> dict[str, bytes]:
    """The contents by their digests."""
    return {digest_of(content): content for content in contents}


class Recorded(RedisMessages):
    """Removes in the end what it has put: the server is not ours."""

    def __init__(self, url: str, books: Books, reactor: Any) -> None:
        super().__init__(url, books, reactor)
        self.keys: set[str] = set()

    async def put(self, contents):
        self.keys.update(contents)
        return await super().put(contents)


@pytest.fixture(
    params=[pytest.param(each, marks=() if each == "sqlite" else pytest.mark.engine) for each in (*ENGINES, "redis")]
)
def opens(request: pytest.FixtureRequest, tmp_path: Path, reactor: Any) -> Open:
    """Give what opens an empty store, on each engine in turn."""

    @asynccontextmanager
    async def redis() -> AsyncIterator[MessageStore]:
        with fresh_database("sqlite", tmp_path) as url:
            async with opened(url, reactor) as beside:
                store = Recorded(redis_url(), Books(beside, lambda: NOW, lambda: None), reactor)
                store.start()
                try:
                    yield store
                    for key in store.keys:
                        await store.delete(key, HUB)
                finally:
                    await store.stop()

    @asynccontextmanager
    async def database() -> AsyncIterator[MessageStore]:
        with fresh_database(request.param, tmp_path) as url:
            async with opened(url, reactor) as store:
                messages = DatabaseMessages(store, Books(store, lambda: NOW, lambda: None), reactor)
                messages.start()
                try:
                    yield messages
                finally:
                    await messages.stop()

    return redis if request.param == "redis" else database


async def test_what_was_put_is_got(opens: Open) -> None:
    """Byte by byte, whatever the bytes are."""
    async with opens() as store:
        for content in ODD:
            [digest] = named(content)
            assert await store.put(named(content)) == {digest}
            assert await store.get(digest) == content


async def test_many_are_put_together(opens: Open) -> None:
    """And the store tells which of them are new."""
    first, second = named(b"a", b"b"), named(b"b", b"c", *ODD)
    async with opens() as store:
        assert await store.put(first) == set(first)
        assert await store.put(second) == set(second) - set(first)
        assert await store.put({**first, **second}) == set()
        assert [await store.get(digest) for digest in second] == list(second.values())


async def test_nothing_is_put(opens: Open) -> None:
    """No message is no fault."""
    async with opens() as store:
        assert await store.put({}) == set()


async def test_a_message_is_put_again(opens: Open) -> None:
    """It is not new then, and still there."""
    [digest] = named(b"again")
    async with opens() as store:
        assert await store.put(named(b"again")) == {digest}
        assert await store.put(named(b"again")) == set()
        assert await store.get(digest) == b"again"


async def test_unknown(opens: Open) -> None:
    """Nothing is given for what was never put."""
    [digest] = named(b"never put")
    async with opens() as store:
        assert await store.get(digest) is None
        assert await store.present([digest]) == set()
        assert await store.present([]) == set()
        assert await store.delete(digest, HUB) is False


async def test_present(opens: Open) -> None:
    """Of more than a thousand digests those that are there are found."""
    there = named(*(b"there %d" % number for number in range(0, 1200, 7)))
    asked = {*there, *named(*(b"not there %d" % number for number in range(1030)))}
    async with opens() as store:
        await store.put(there)
        assert await store.present(asked) == set(there)


async def test_delete(opens: Open) -> None:
    """What is deleted is gone, once; its neighbour stays, and it may come back."""
    contents = named(b"to be deleted", b"to be kept")
    gone, stays = contents
    async with opens() as store:
        await store.put(contents)
        assert await store.delete(gone, HUB) is True
        assert await store.delete(gone, HUB) is False
        assert (await store.get(gone), await store.get(stays)) == (None, b"to be kept")
        assert await store.put(named(b"to be deleted")) == {gone}
        assert await store.get(gone) == b"to be deleted"


@pytest.mark.parametrize("damage", [b"", b"whole", b"whole."])
async def test_a_damaged_message_is_given_as_it_is_and_mended(opens: Open, damage: bytes) -> None:
    """The store does not judge; put again, alone or with others, the content is right again."""
    [digest] = named(b"Whole")
    async with opens() as store:
        await store.put({digest: damage})
        assert await store.get(digest) == damage
        assert await store.put(named(b"Whole")) == set()
        assert await store.get(digest) == b"Whole"
        await store.put({digest: damage})
        await store.put(named(b"Whole", b"another"))
        assert await store.get(digest) == b"Whole"


async def test_many_put_the_same_at_once(opens: Open) -> None:
    """All are told that it is there, exactly one for each message that it is new, whatever order they name them in."""
    contents = [b"shared %d" % number for number in range(8)]
    async with opens() as store:
        answers = await gather(
            *(store.put(named(*(contents if turn % 2 else reversed(contents)))) for turn in range(12))
        )
        assert sorted(digest for new in answers for digest in new) == sorted(named(*contents))
        assert await store.present(named(*contents)) == set(named(*contents))


async def test_a_store_that_is_well_says_nothing(opens: Open) -> None:
    """No reason is a good one."""
    async with opens() as store:
        assert await store.check() is None
