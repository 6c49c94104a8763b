"""Events on SQLite, PostgreSQL and MariaDB alike: positions in commit order, followers that miss nothing, true sums."""

from __future__ import annotations

from functools import partial
from random import Random
from time import sleep as pause
from typing import Any

import pytest_twisted
from sqlalchemy import Connection

from datahub.events import HUB, Happening
from datahub.events.feed import Feed
from datahub.events.summary import summarise
from datahub.events.tables import Wanted, append, find, forget, number
from datahub.kit.aio import Task, gather, sleep, within
from datahub.store import Store
from tests.stores import opened

NOW = 1_800_000_000_000


@pytest_twisted.async_yield_fixture
async def store(database_url: str, reactor: Any) -> Any:
    """A started store."""
    async with opened(database_url, reactor) as store:
        yield store


def tell(connection: Connection, subject: str, seconds: float = 0, to: str = "NEW", origin: str | None = None) -> None:
    """Write one event, and keep its transaction open for some time."""
    append(connection, [Happening("thing", subject, "alice", to, origin, size=10, before=10)], HUB, NOW)
    pause(seconds)


async def number_all(store: Store) -> None:
    """Give positions to all events there are."""
    while await store.run("number", number):
        pass


async def all_events(store: Store, **wanted: Any) -> list[Any]:
    """The events there are."""
    return await store.read("find", partial(find, wanted=Wanted(**wanted), limit=10_000))


async def test_events_are_numbered_without_gaps(store: Store) -> None:
    """One after the other, from one on."""
    for subject in "abc":
        await store.run("tell", partial(tell, subject=subject))
    await number_all(store)
    assert [(each.position, each.subject) for each in await all_events(store)] == [(1, "a"), (2, "b"), (3, "c")]


async def test_an_event_of_a_rolled_back_change_is_none(store: Store) -> None:
    """It is part of the change's transaction."""

    def fail(connection: Connection) -> None:
        tell(connection, "a")
        raise KeyError

    await Task("fail", store.run("fail", fail)).ended()
    await number_all(store)
    assert await all_events(store) == []


async def test_a_follower_sees_all_once_and_in_order(store: Store, reactor: Any) -> None:
    """Sixteen writers with short and long transactions; a follower that is cut and comes back again and again."""
    feed = Feed(store, reactor)
    feed.start()
    random = Random(7)
    seen: list[tuple[int, str]] = []

    async def write(writer: int) -> None:
        for n in range(12):
            seconds = random.choice([0, 0, 0.002, 0.02])
            await store.run("tell", partial(tell, subject=f"{writer}.{n}", seconds=seconds))
            feed.wake()

    async def follow() -> None:
        after = seen[-1][0] if seen else 0
        while True:
            news = feed.news(after)
            await news
            found, after = await feed.after(Wanted(after))
            seen.extend((each.position, each.subject) for each in found)

    async def be_cut_again_and_again() -> None:
        while len(seen) < 16 * 12:
            following = Task("follow", follow())
            await sleep(random.uniform(0.01, 0.1), reactor)
            await following.stop()

    await gather(
        *(write(writer) for writer in range(16)),
        within(40, be_cut_again_and_again(), reactor, "the follower"),
    )
    await feed.stop()
    assert [position for position, _ in seen] == list(range(1, 16 * 12 + 1))
    assert sorted(subject for _, subject in seen) == sorted(f"{w}.{n}" for w in range(16) for n in range(12))
    for writer in range(16):
        own = [int(subject.split(".")[1]) for _, subject in seen if subject.startswith(f"{writer}.")]
        assert own == sorted(own)


async def test_two_hubs_number_each_event_once(store: Store) -> None:
    """Their sweeps exclude each other."""
    for n in range(50):
        await store.run("tell", partial(tell, subject=str(n)))
    await gather(*(store.run("number", number) for _ in range(8)))
    await number_all(store)
    assert [each.position for each in await all_events(store)] == list(range(1, 51))


async def test_events_are_found_by_what_they_are_about(store: Store) -> None:
    """By subject, type, submitter and position."""
    for subject, to in (("a", "NEW"), ("b", "NEW"), ("a", "OLD")):
        await store.run("tell", partial(tell, subject=subject, to=to))
    await number_all(store)
    assert [each.to for each in await all_events(store, subject="a")] == ["NEW", "OLD"]
    assert [each.subject for each in await all_events(store, type="thing.new")] == ["a", "b"]
    assert [each.position for each in await all_events(store, after=1)] == [2, 3]
    assert await all_events(store, submitter="bob") == []


async def test_the_summary_counts_what_is(store: Store) -> None:
    """Counts and bytes by status, and what came lately."""
    for subject in "abc":
        await store.run("tell", partial(tell, subject=subject))
    await store.run("tell", partial(tell, subject="a", to="DONE", origin="NEW"))
    await number_all(store)
    summary = await store.read("sum", partial(summarise, kind="thing", now=NOW + 1000, oldest={"NEW": NOW}))
    assert {status: (each.count, each.bytes) for status, each in summary.now.items()} == {
        "NEW": (2, 20),
        "DONE": (1, 10),
    }
    assert summary.now["NEW"].oldest == "2027-01-15T08:00:00.000Z"
    assert summary.last_hour["DONE"].count == 1
    later = await store.read("sum", partial(summarise, kind="thing", now=NOW + 2 * 3_600_000, oldest={}))
    assert later.last_hour == {}
    assert later.last_day["NEW"].count == 3


async def test_old_events_are_forgotten_and_sums_stay(store: Store) -> None:
    """Positions go on where they were, also when all events are gone."""
    for subject in "abc":
        await store.run("tell", partial(tell, subject=subject))
    await number_all(store)
    assert await store.run("forget", partial(forget, before=NOW + 1, now=NOW)) == 3
    await store.run("tell", partial(tell, subject="d"))
    await number_all(store)
    assert [each.position for each in await all_events(store)] == [4]
    summary = await store.read("sum", partial(summarise, kind="thing", now=NOW, oldest={}))
    assert summary.now["NEW"].count == 4
