"""Messages in a real Redis that is killed, hangs, refuses, and was filled by others."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.logger import capturedLogs

from datahub.errors import Damaged, NoSpace, Unavailable
from datahub.events import HUB, Actor
from datahub.kit.aio import gather, sleep, within
from datahub.messages.books import Books
from datahub.messages.model import digest_of
from datahub.messages.stores import redis
from datahub.messages.stores.redis import RedisMessages
from tests.redis_server import own_redis
from tests.waiting import until

pytestmark = pytest.mark.engine

FOO = digest_of(b"foo")


class Unwritten(Books):
    """Books that nobody keeps."""

    def __init__(self) -> None: ...

    async def struck(self, digest: str, actor: Actor) -> None:
        """Do nothing."""


@asynccontextmanager
async def connected(url: str, reactor: Any) -> AsyncIterator[RedisMessages]:
    """Give a store that was started, and stop it."""
    store = RedisMessages(url, Unwritten(), reactor)
    store.start()
    try:
        yield store
    finally:
        await store.stop()


async def back(store: RedisMessages, reactor: Any) -> None:
    """Wait until the store answers again, by itself."""
    for _ in range(800):
        if await store.check() is None:
            return
        await sleep(0.05, reactor)
    raise AssertionError("Redis is not connected again")


async def test_what_another_service_has_stored(tmp_path, reactor):
    """An older installation's keys and values are served as they are; ours are what it would have stored."""
    with own_redis(tmp_path) as server:
        server.ask(f"SET {FOO} foo")
        async with connected(server.url, reactor) as store:
            assert await store.get(FOO) == b"foo"
            await store.put({digest_of(b"bar"): b"bar"})
        assert server.ask(f"GET {digest_of(b'bar')}") == b"$3\r\nbar\r\n"
        assert server.ask(f"TTL {digest_of(b'bar')}") == b":-1\r\n"


async def test_killed_and_back(tmp_path, reactor):
    """Meanwhile every call is refused soon; then all that was acknowledged is there, and new messages are taken."""
    kept: dict[str, bytes] = {}

    async def client(number: int) -> None:
        for turn in itertools.count():
            content = b"client %d, message %d" % (number, turn)
            try:
                await store.put({digest_of(content): content})
            except Unavailable:
                return
            kept[digest_of(content)] = content
            if len(kept) == 150:
                server.kill()

    with own_redis(tmp_path) as server:
        async with connected(server.url, reactor) as store:
            await store.check()
            await gather(*(client(number) for number in range(20)))
            assert len(kept) >= 150
            for verb in (store.put({FOO: b"foo"}), store.get(FOO), store.present([FOO]), store.delete(FOO, HUB)):
                with pytest.raises(Unavailable, match="away"):
                    await within(15, verb, reactor, "a call without Redis")
            assert f"127.0.0.1:{server.port}" in (await store.check() or "")
            server.start()
            await back(store, reactor)
            assert [await store.get(digest) for digest in kept] == list(kept.values())
            assert await store.put({FOO: b"foo"}) == {FOO}


async def test_away_at_the_start(tmp_path, reactor):
    """The hub starts all the same, and has Redis when it comes."""
    with own_redis(tmp_path) as server:
        server.kill()
        async with connected(server.url, reactor) as store:
            with pytest.raises(Unavailable):
                await store.get(FOO)
            server.start()
            await back(store, reactor)
            assert await store.get(FOO) is None


async def test_a_redis_that_hangs(tmp_path, reactor, monkeypatch):
    """The wait has an end, the connection is given up, and no late answer is taken for another's."""
    monkeypatch.setattr(redis, "ANSWER", 0.3)
    with own_redis(tmp_path) as server:
        async with connected(server.url, reactor) as store:
            await store.put({FOO: b"foo"})
            first = store._connection
            server.hang()
            with pytest.raises(Unavailable, match="no answer within"):
                await store.get(FOO)
            await until(lambda: store._connection is not first, "the connection is given up")
            server.kill()
            server.start()
            await back(store, reactor)
            assert await store.get(digest_of(b"bar")) is None
            assert await store.get(FOO) == b"foo"


async def test_a_full_redis(tmp_path, reactor):
    """It is a full store, not one that is away; what is there can be read and deleted."""
    with own_redis(tmp_path, "--maxmemory-policy", "noeviction") as server:
        async with connected(server.url, reactor) as store:
            await store.put({FOO: b"foo"})
            server.ask("CONFIG SET maxmemory 1")
            for contents in ({digest_of(b"bar"): b"bar"}, {FOO: b"foo", digest_of(b"bar"): b"bar"}):
                with pytest.raises(NoSpace):
                    await store.put(contents)
            assert await store.get(FOO) == b"foo"
            assert await store.delete(FOO, HUB)


async def test_a_password_and_a_database(tmp_path, reactor):
    """Both are in the URL; without the right password the store is away, says why, and comes when it is right."""
    with own_redis(tmp_path, "--requirepass", "p@ss") as server:
        place = f"127.0.0.1:{server.port}"
        async with connected(f"redis://:p%40ss@{place}/3", reactor) as store:
            await store.put({FOO: b"foo"})
        async with connected(f"redis://default:p%40ss@{place}/4", reactor) as store:
            assert await store.get(FOO) is None
        with capturedLogs() as events:
            async with connected(f"redis://:wrong@{place}", reactor) as store:
                with pytest.raises(Unavailable) as refused:
                    await store.get(FOO)
                assert "WRONGPASS" in str([event.get("text") for event in events])
                assert place not in str(refused.value)
                assert "wrong" not in str(events)


async def test_a_key_that_is_no_message(tmp_path, reactor):
    """Something else under a digest is damage, and is replaced by the message."""
    with own_redis(tmp_path) as server:
        server.ask(f"LPUSH {FOO} x")
        async with connected(server.url, reactor) as store:
            with pytest.raises(Damaged):
                await store.get(FOO)
            assert await store.put({FOO: b"foo"}) == set()
            assert await store.get(FOO) == b"foo"
