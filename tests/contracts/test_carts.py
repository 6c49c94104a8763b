"""The SQL of carts and of what is kept for them, on SQLite, PostgreSQL and MariaDB alike."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection, insert, select, text, update

from datahub.archive import Facts, cache
from datahub.carts import fetch_tables, line, tables, waits
from datahub.carts.fetch_tables import Group
from datahub.carts.model import FAILED, STAGED, CartFile, Status, Wish
from datahub.carts.service import _new_cart
from datahub.errors import Superseded
from datahub.events import HUB
from datahub.kit.aio import gather
from datahub.kit.filters import Filter
from datahub.store import Store
from datahub.work import ledger
from datahub.work.tables import hub
from datahub.work.tables import work as work_table
from tests.stores import opened

ME = "hub1:aa"
NOW = 1_772_357_400_250


@pytest_twisted.async_yield_fixture
async def store(database_url: str, reactor: Any) -> Any:
    """A started store in which one hub is alive."""
    async with opened(database_url, reactor) as store:
        row = {"owner": ME, "node": "hub1", "version": "1", "beat": 0}
        await store.run("enter", lambda connection: connection.execute(insert(hub).values(row)).rowcount)
        yield store


def made(connection: Connection, uid: str, *names: str, time: int = NOW) -> str:
    from datahub.carts.model import Order

    wishes = [Wish(f"p/ü{name}", name, None, None) for name in names]
    new = _new_cart(f"id-{uid}", uid, "alice", Order(wishes, False, "d"), time)
    assert tables.add(connection, new, wishes, HUB)
    assert not tables.add(connection, replace(new, id="other"), wishes, HUB)
    fetch_tables.bind(connection, new.id, tables.window(connection, new.id, 0, 100))
    return new.id


def files(connection: Connection, number: str) -> list[CartFile]:
    return tables.window(connection, number, 0, 100)


async def test_the_rows_of_a_cart(store: Store) -> None:
    """Written, found by either name, changed only from the state they were in, listed, removed."""

    def work(connection: Connection) -> None:
        number = made(connection, "abc", "a", "b")
        cart = tables.find_by_uid(connection, "abc", lock=True)
        assert cart is not None
        assert cart == tables.find(connection, number)
        assert tables.find_by_uid(connection, "ABC") is None
        assert tables.begin(connection, [number], NOW)[number].status is Status.STAGING
        facts = Facts("/x/ü\udcff", 1, 2**63, 2**40, -5, 7)
        one, two = files(connection, number)
        staged = replace(one, status=STAGED, facts=facts, size=facts.size, mtime_ns=facts.mtime_ns)
        tables.keep_staged(connection, number, [staged, replace(two, status=FAILED, error="no")])
        assert files(connection, number)[0].facts == facts
        assert tables.count_files(connection, number) == {STAGED: (1, 2**40), FAILED: (1, 0)}
        assert [each.error for each in tables.failures(connection, number, 5)] == ["no"]
        assert tables.count_undigested(connection, number) == 1
        tables.keep_digests(connection, number, {0: ("ab" * 32, None)})
        assert tables.count_undigested(connection, number) == 0
        tables.wait_again(connection, number)
        assert files(connection, number)[1].status == "waiting"
        assert tables.oldest(connection) == {"staging": NOW}
        assert [each.uid for each in tables.find_many(connection, Filter(5, statuses=(Status.STAGING,)))] == ["abc"]
        now = tables.find(connection, number)
        assert now is not None
        tables.change(connection, now, NOW, status=Status.EVICTED, time_gone=NOW, reason="for space")
        assert tables.left_behind(connection, NOW, 5) == [number]
        fetch_tables.free_all(connection, number)
        tables.forget_files(connection, [number])
        assert tables.left_behind(connection, NOW, 5) == []
        assert tables.expired(connection, NOW + 1, 5) == [number]
        tables.remove(connection, [number], NOW)
        assert tables.find(connection, number) is None

    await store.run("all of it", work)


async def test_what_is_kept(store: Store) -> None:
    """Shared by name, counted by users, claimed once, reserved, adopted, and dropped with its last user."""

    def work(connection: Connection) -> None:
        one, two = made(connection, "one", "a", "b"), made(connection, "two", "a", "c", time=NOW + 1)
        for number in (one, two):
            tables.begin(connection, [number], NOW)
        assert fetch_tables.waiting(connection, one) == {cache.NEW: Group(2, 0)}
        claim = partial(fetch_tables.claim, connection, now=1, owner=ME, count=9, most=100)
        jobs = claim(one, cache.NEW, in_hand=())
        assert [job.holding.name for job in jobs] == ["a", "b"]
        in_hand = {job.holding.id for job in jobs}
        assert claim(one, cache.NEW, in_hand=in_hand) == []
        again = claim(one, cache.NEW, in_hand=in_hand - {jobs[1].holding.id})
        assert [job.holding.name for job in again] == ["b"], "it is its own, and it doesn't work at it"
        assert claim(one, cache.NEW, in_hand=(), owner="another") == [], "a living daemon's are not free"
        more = claim(two, cache.NEW, in_hand=in_hand)
        assert [job.holding.name for job in more] == ["c"]
        fetch_tables.release(connection, [jobs[0].holding.id], ME)
        in_hand = {jobs[1].holding.id, more[0].holding.id}
        assert [job.holding.name for job in claim(two, cache.NEW, in_hand=in_hand)] == ["a"]
        for job in jobs:
            cache.change(connection, job.holding, ME, state=cache.KNOWN, size=10, mtime_ns=5, owner="dead")
        assert (fetch_tables.needed(connection, one), fetch_tables.whole_size(connection, one)) == (20, 20)
        cache.lock_space(connection)
        fetch_tables.reserve(connection, one)
        assert fetch_tables.needed(connection, one) == 0
        assert cache.taken(connection) == 20
        reserved = claim(one, cache.RESERVED, in_hand=())
        assert (len(reserved), len(claim(one, cache.RESERVED, in_hand=(), most=15))) == (2, 1), "a dead one's are free"
        facts = Facts("/x", 1, 2, 10, 5, 7)
        kept_now: dict[str, Any] = {"state": cache.HELD, "digests": "{}", "owner": None, **cache.told(facts)}
        cache.change(connection, reserved[0].holding, ME, **kept_now)
        with pytest.raises(Superseded):
            cache.change(connection, reserved[0].holding, ME, **kept_now)
        ((file, kept),) = fetch_tables.adoptable(connection, two, 0, 5)
        assert (file.name, kept.facts) == ("a", facts)
        fetch_tables.fail_users(connection, one, jobs[1].holding.id, "no")
        assert [fetch_tables.free(connection, one, 1) for _ in range(3)] == [1, 1, 0]
        assert cache.kept(connection) == 10
        fetch_tables.free_all(connection, two)
        assert cache.kept(connection) == 0
        assert len(cache._dropped(connection)) == 3
        assert cache.use(connection, ["a"])["a"] not in cache._dropped(connection)
        cache._forget(connection, cache._dropped(connection))
        assert cache._dropped(connection) == []
        now = tables.find(connection, one)
        assert now is not None
        tables.change(connection, now, NOW, status=Status.READY, time_used=NOW)
        assert [each.id for each in fetch_tables.evictable(connection, NOW, NOW)] == [one]
        tables.touch(connection, [one], NOW, NOW + 5)
        assert list(fetch_tables.evictable(connection, NOW, NOW)) == []
        assert [each.id for each in tables.unused(connection, NOW + 1, 5)] == [one]

    await store.run("all of it", work)


async def test_the_line_for_room(store: Store) -> None:
    """In the order in which they came; who has ended or waits for something else holds up nobody, the next is woken."""

    def work(connection: Connection) -> None:
        ledger.declare(connection, line.LANE, None)
        one, two, three = (made(connection, uid, uid) for uid in ("one", "two", "three"))
        carts = tables.begin(connection, [one, two, three], NOW)
        for number in (one, two, three):
            line.stand(connection, number)
            line.stand(connection, number)
            ledger.enqueue(connection, line.LANE, number, "alice")
        delayed = update(work_table).values(state="delayed", due=NOW)
        connection.execute(delayed)
        behind = partial(line.is_behind, connection)
        assert not behind(three), "none of them says that it waits for room"
        for number, what in ((one, waits.ROOM), (two, waits.TURN)):
            tables.change(connection, carts[number], NOW, waiting=waits.Wait(what, NOW).written())
        assert [behind(each) for each in (one, two, three)] == [False, True, True]
        tables.change(connection, carts[one], NOW, waiting=waits.Wait(waits.RETRY, NOW).written())
        assert [behind(each) for each in (one, two, three)] == [False, False, True]
        tables.change(connection, carts[one], NOW, waiting=waits.Wait(waits.ROOM, NOW).written())
        ready = select(work_table.c.subject).where(work_table.c.state == "ready")
        line.leave(connection, "another")
        assert connection.execute(ready).all() == []
        tables.change(connection, carts[one], NOW, status=Status.ERROR)
        assert not behind(two)
        line.leave(connection, one)
        assert connection.execute(ready).scalars().all() == [two]
        assert connection.execute(select(line.line.c.cart).order_by(line.line.c.id)).scalars().all() == [two, three]

    await store.run("all of it", work)


async def test_many_make_users_at_once(store: Store) -> None:
    """Each is counted, and there is one row."""
    numbers = await gather(*(store.run("use", partial(cache.use, names=["same", "b", "same"])) for _ in range(12)))
    assert len({tuple(sorted(each.items())) for each in numbers}) == 1
    rows = await store.read("users", lambda connection: connection.execute(cache.holding.select()).all())
    assert {row.name: row.users for row in rows} == {"same": 24, "b": 12}


async def test_clocks_of_before(store: Store) -> None:
    """What an older version kept as one clock is that of a tape if there was no fault; carts begin anew."""
    version = "datahub.store.migrations.versions.v0010_clocks_of_carts"
    parting = importlib.import_module(version)

    def work(connection: Connection) -> None:
        number = made(connection, "abc", "tape", "fault")
        one, two = (each.holding for each in files(connection, number))
        for kept, error in ((one, None), (two, "away")):
            row = update(cache.holding).where(cache.holding.c.id == kept)
            connection.execute(row.values(failing_since=NOW, error=error))
        connection.execute(update(tables.cart).values(failing_since=NOW))
        connection.execute(text(parting.TAPES))
        connection.execute(text(parting.CARTS))
        rows = {row.id: row for row in connection.execute(cache.holding.select())}
        assert (rows[one].staging_since, rows[one].failing_since) == (NOW, None)
        assert (rows[two].staging_since, rows[two].failing_since) == (None, NOW)
        now = tables.find(connection, number)
        assert now is not None
        assert now.failing_since is None
        assert fetch_tables.waiting(connection, number) == {cache.NEW: Group(2, 0, NOW, NOW, "away")}

    await store.run("all of it", work)
