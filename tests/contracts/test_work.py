"""The ledger's rules, on SQLite, PostgreSQL and MariaDB alike; each counter-example was seen to fail somewhere once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection, func, insert, select, update

from datahub.errors import Superseded
from datahub.kit.aio import gather
from datahub.kit.clock import HubClock
from datahub.store import Store
from datahub.store.settings import setting
from datahub.work import Item, ledger, presence, sweeper
from datahub.work.presence import Hub
from datahub.work.tables import DELAYED, READY, RUNNING, lane, share, work
from tests.stores import opened

LANE = "test.step"
ME, OTHER = "hub1:aa", "hub2:bb"


@pytest_twisted.async_yield_fixture
async def store(database_url: str, reactor: Any) -> Any:
    """A started store with one lane of four slots."""
    async with opened(database_url, reactor) as store:
        await store.run("declare", partial(ledger.declare, name=LANE, slots=4))
        yield store


async def enqueue(store: Store, subject: str, submitter: str = "alice", **more: Any) -> bool:
    """Put one subject on the lane."""
    return await store.run("enqueue", partial(ledger.enqueue, name=LANE, subject=subject, submitter=submitter, **more))


async def claim(store: Store, count: int = 1, owner: str = ME) -> list[Item]:
    """Claim for ``owner``."""
    return await store.run("claim", partial(ledger.claim, name=LANE, count=count, owner=owner))


async def settle(store: Store, item: Item, owner: str = ME) -> None:
    """Take an item off."""
    await store.run("settle", partial(ledger.settle, item=item, owner=owner))


async def states(store: Store) -> Counter[str]:
    """How many items are in which state."""
    found = await store.read("states", lambda c: c.execute(select(work.c.state)).scalars().all())
    return Counter(found)


async def fill(store: Store, count: int, submitter: str, state: str = READY, due: int | None = None) -> None:
    """Put ``count`` items of one submitter on the lane by one statement, with the turns that enqueue gives."""

    def write(connection: Connection) -> None:
        row = {"lane": LANE, "submitter": submitter, "state": state, "attempt": 0, "due": due}
        rows = [{**row, "subject": f"{submitter}{n}", "turn": (n + 1) * ledger.COST} for n in range(count)]
        connection.execute(insert(work), rows)
        connection.execute(insert(share), {"lane": LANE, "submitter": submitter, "last": count * ledger.COST})

    await store.run("fill", write)


async def test_an_item_goes_through(store: Store) -> None:
    """Enqueued, claimed with its first attempt, settled: nothing is left."""
    assert await enqueue(store, "t1")
    (item,) = await claim(store)
    assert (item.lane, item.subject, item.submitter, item.attempt) == (LANE, "t1", "alice", 1)
    await settle(store, item)
    assert await states(store) == {}


async def test_a_subject_has_one_place(store: Store) -> None:
    """Enqueued twice, also by many at once, it is there once."""
    results = await gather(*(enqueue(store, "t1") for _ in range(16)))
    assert sorted(results) == [False] * 15 + [True]
    assert await states(store) == {READY: 1}


async def test_a_claim_takes_each_item_once(store: Store) -> None:
    """Sixteen claims at once never give one item twice."""
    await store.run("no limit", partial(ledger.declare, name=LANE, slots=None))
    for number in range(40):
        await enqueue(store, str(number))
    claimed = await gather(*(claim(store, 5, f"hub{n}") for n in range(16)))
    subjects = [item.subject for items in claimed for item in items]
    assert len(subjects) == len(set(subjects)) == 40


async def test_slots_hold_in_the_whole_cluster(store: Store) -> None:
    """A limit of four lets four run, however many hubs claim at once; parked items count."""
    for number in range(40):
        await enqueue(store, str(number))
    claimed = await gather(*(claim(store, 4, f"hub{n}") for n in range(16)))
    running = [item for items in claimed for item in items]
    assert len(running) == 4
    parked = running[0]
    owner = next(f"hub{n}" for n, items in enumerate(claimed) if parked in items)
    await store.run("park", partial(ledger.park, item=parked, owner=owner, until=10))
    assert await claim(store, 4) == []


def set_paused(connection: Connection, paused: bool) -> None:
    """Pause all lanes, or let them go on."""
    connection.execute(update(lane).values(paused=paused))


async def test_a_paused_lane_gives_nothing(store: Store) -> None:
    """Until it is taken up again."""
    await enqueue(store, "t1")
    await store.run("pause", partial(set_paused, paused=True))
    assert await claim(store) == []
    await store.run("go on", partial(set_paused, paused=False))
    assert len(await claim(store)) == 1


async def test_turns_of_one_submitter_stay_right_under_concurrency(store: Store) -> None:
    """Sixteen connections of one submitter get him the turns one connection would: each cost apart, none twice."""
    await gather(*(enqueue(store, str(number), "alice") for number in range(160)))
    turns = await store.read("turns", lambda c: c.execute(select(work.c.turn).order_by(work.c.turn)).scalars().all())
    assert list(turns) == [ledger.COST * (number + 1) for number in range(160)]


async def test_submitters_take_turns(store: Store) -> None:
    """One who queues many waits no longer and no shorter for another who queues as many."""
    for number in range(20):
        await enqueue(store, f"a{number}", "alice")
    for number in range(20):
        await enqueue(store, f"b{number}", "bob")
    order = await drain(store, 20)
    assert Counter(order) == {"alice": 10, "bob": 10}
    assert all(abs(order[:n].count("alice") - order[:n].count("bob")) <= 1 for n in range(2, 21))


async def drain(store: Store, count: int) -> list[str]:
    """Claim and settle one after the other; the submitters in the order they were served."""
    served = []
    for _ in range(count):
        (item,) = await claim(store)
        served.append(item.submitter)
        await settle(store, item)
    return served


async def test_who_comes_later_does_not_catch_up(store: Store) -> None:
    """A newcomer starts at the present turn: neither behind all, nor with a credit for the time he was away."""
    for number in range(30):
        await enqueue(store, f"a{number}", "alice")
    await drain(store, 10)
    for number in range(10):
        await enqueue(store, f"b{number}", "bob")
    order = await drain(store, 10)
    assert order[:2].count("bob") >= 1
    assert 4 <= order.count("bob") <= 6


async def test_a_smaller_cost_is_a_larger_share(store: Store) -> None:
    """Twice the weight, twice the turns."""
    for number in range(30):
        await enqueue(store, f"a{number}", "alice", cost=ledger.COST // 2)
        await enqueue(store, f"b{number}", "bob")
    order = await drain(store, 30)
    assert 19 <= order.count("alice") <= 21


@pytest.mark.parametrize("state", [READY, DELAYED])
async def test_a_hundred_thousand_of_one_do_not_delay_another(store: Store, state: str) -> None:
    """With 100,000 waiting or delayed by one submitter, another's one is in the next free slot."""
    await fill(store, 100_000, "alice", state, due=2**60 if state == DELAYED else None)
    await enqueue(store, "b1", "bob")
    served = await claim(store, 2)
    assert "bob" in [item.submitter for item in served]


async def test_settling_twice_is_superseded(store: Store) -> None:
    """The second time all of its transaction rolls back."""
    await enqueue(store, "t1")
    (item,) = await claim(store)
    await settle(store, item)

    def late(connection: Connection) -> None:
        connection.execute(insert(setting), {"name": "late", "value": "1"})
        ledger.settle(connection, item, ME)

    with pytest.raises(Superseded, match="attempt 1 is not the one that counts"):
        await store.run("late", late)
    assert (
        await store.read("late", lambda c: c.execute(select(func.count()).where(setting.c.name == "late")).scalar())
        == 0
    )


async def test_a_late_hub_has_no_effect(store: Store) -> None:
    """A hub whose work was taken over can neither settle, put off, park, hold nor give it back."""
    await enqueue(store, "t1")
    (old,) = await claim(store)
    await store.run("take back", partial(presence.take_back, owner=ME))
    (new,) = await claim(store, owner=OTHER)
    assert (new.attempt, new.note) == (2, "recovered")
    for verb in (
        ledger.settle,
        ledger.hold,
        ledger.give_back,
        partial(ledger.retry, due=1),
        partial(ledger.park, until=1),
    ):
        with pytest.raises(Superseded):
            await store.run("late", partial(verb, item=old, owner=ME))
    await settle(store, new, OTHER)


async def test_a_retry_keeps_its_turn(store: Store) -> None:
    """Delayed until it is due, then ready with the turn it had, before what came later."""
    await enqueue(store, "t1")
    (item,) = await claim(store)
    await enqueue(store, "t2")
    await store.run("retry", partial(ledger.retry, item=item, owner=ME, due=500))
    assert await store.run("wake", partial(sweeper._wake, now=499)) == []
    assert await store.run("wake", partial(sweeper._wake, now=500)) == [LANE]
    again, _ = await claim(store, 2)
    assert (again.subject, again.attempt) == ("t1", 2)


async def test_a_parked_item_says_that_its_deadline_passed(store: Store) -> None:
    """It keeps no owner while parked, and comes back with the note."""
    await enqueue(store, "t1")
    (item,) = await claim(store)
    await store.run("park", partial(ledger.park, item=item, owner=ME, until=500))
    assert await store.run("wake", partial(sweeper._wake, now=500)) == [LANE]
    (again,) = await claim(store)
    assert again.note == "deadline"


async def test_withdrawing_what_has_not_begun(store: Store) -> None:
    """It is simply gone."""
    await enqueue(store, "t1")
    assert await store.run("withdraw", partial(ledger.withdraw, lanes=[LANE], subject="t1"))
    assert await states(store) == {}


async def test_withdrawing_what_runs_tells_its_hub(store: Store) -> None:
    """It keeps running, with a note its hub sees; a delayed one becomes ready to be undone."""
    await enqueue(store, "t1")
    (item,) = await claim(store)
    assert not await store.run("withdraw", partial(ledger.withdraw, lanes=[LANE], subject="t1"))
    held = await store.read("held", partial(sweeper._held_by, owner=ME))
    assert held == {item.id: (LANE, item.attempt, "cancel")}
    await store.run("retry", partial(ledger.retry, item=item, owner=ME, due=2**60))
    assert not await store.run("withdraw", partial(ledger.withdraw, lanes=[LANE], subject="t1"))
    assert await states(store) == {READY: 1}


async def test_a_node_of_the_same_name_is_seen(store: Store) -> None:
    """By its row; leaving removes it."""
    clock = HubClock()
    me, namesake = Hub("hub1:aa", "hub1", "1"), Hub("hub1:cc", "hub1", "1")
    await store.run("enter", partial(presence.enter, me=me, clock=clock))
    await store.run("enter", partial(presence.enter, me=namesake, clock=clock))
    assert set(await store.read("same", partial(presence.same_node, node="hub1"))) == {"hub1:aa", "hub1:cc"}
    await store.run("leave", partial(presence.take_back, owner="hub1:aa"))
    assert set(await store.read("same", partial(presence.same_node, node="hub1"))) == {"hub1:cc"}


async def test_taking_back_moves_only_what_runs(store: Store) -> None:
    """Parked items have no owner and stay; the lanes with work again are told."""
    for number in range(3):
        await enqueue(store, str(number))
    first, second, _ = await claim(store, 3)
    await store.run("park", partial(ledger.park, item=first, owner=ME, until=10**15))
    await store.run("settle", partial(ledger.settle, item=second, owner=ME))
    assert await store.run("take back", partial(presence.take_back, owner=ME)) == [LANE]
    assert await states(store) == {"parked": 1, READY: 1}
    assert await store.run("take back", partial(presence.take_back, owner=ME)) == []


async def test_what_was_recovered_stays_so(store: Store) -> None:
    """A step that is stopped before it has told of the loss is told of it again; other notes are of one attempt."""
    for number in range(2):
        await enqueue(store, str(number))
    await claim(store, 2)
    await store.run("take back", partial(presence.take_back, owner=ME))
    first, second = await claim(store, 2)
    for item in (first, replace(second, note="cancel")):
        await store.run("give back", partial(ledger.give_back, item=item, owner=ME))
    assert [each.note for each in await claim(store, 2)] == ["recovered", None]


async def test_ids_are_never_used_again(store: Store) -> None:
    """Effects outside are named after the id and attempt, so no later item may bear them."""
    await enqueue(store, "t1")
    (first,) = await claim(store)
    await settle(store, first)
    await enqueue(store, "t1")
    (second,) = await claim(store)
    assert second.id > first.id


async def test_running_counts_survive_a_declared_change(store: Store) -> None:
    """Fewer slots than run: nothing new is given until enough have ended."""
    for number in range(8):
        await enqueue(store, str(number))
    items = await claim(store, 4)
    await store.run("fewer", partial(ledger.declare, name=LANE, slots=2))
    await settle(store, items[0])
    assert await claim(store, 4) == []
    await settle(store, items[1])
    await settle(store, items[2])
    assert len(await claim(store, 4)) == 1
    assert (await states(store))[RUNNING] == 2


class Steady:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.seconds


async def test_time_is_taken_from_the_database(store: Store) -> None:
    """Two hubs whose own clocks differ by days agree within a moment."""
    first, second = HubClock(Steady()), HubClock(lambda: 900_000.0)
    await store.run("enter", partial(presence.enter, me=Hub("a:1", "a", "1"), clock=first))
    await store.run("enter", partial(presence.enter, me=Hub("b:1", "b", "1"), clock=second))
    assert abs(first.now() - second.now()) < 5_000
    assert abs(first.now() - first.wall()) == 0


@pytest.mark.parametrize("step", [3_600_000, -3_600_000])
async def test_a_stepped_database_clock_moves_nothing_that_is_due(
    store: Store, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set forward or back by an hour, times for people follow and what is due stays where it was, on all hubs."""
    first, second, late = HubClock(), HubClock(), HubClock()
    me, other, newcomer = Hub("a:1", "a", "1"), Hub("b:1", "b", "1"), Hub("c:1", "c", "1")
    await store.run("enter", partial(presence.enter, me=me, clock=first))
    await store.run("enter", partial(presence.enter, me=other, clock=second))
    before = first.now()
    real = presence._database_time
    monkeypatch.setattr(presence, "_database_time", lambda connection: real(connection) + step)
    for hub, clock in ((me, first), (other, second), (me, first)):
        await store.run("beat", partial(presence.beat, me=hub, clock=clock))
    await store.run("enter", partial(presence.enter, me=newcomer, clock=late))
    for clock in (first, second, late):
        assert 0 <= clock.now() - before < 60_000
        assert abs(clock.wall() - before - step) < 60_000


async def test_a_hub_that_slept_corrects_itself(store: Store) -> None:
    """Its own clock stood still while others went on: it follows them, and the shared offset stays."""
    steady = Steady()
    sleeper, awake = HubClock(steady), HubClock()
    me, other = Hub("a:1", "a", "1"), Hub("b:1", "b", "1")
    await store.run("enter", partial(presence.enter, me=other, clock=awake))
    await store.run("enter", partial(presence.enter, me=me, clock=sleeper))
    steady.seconds -= 600
    await store.run("beat", partial(presence.beat, me=other, clock=awake))
    await store.run("beat", partial(presence.beat, me=me, clock=sleeper))
    assert abs(sleeper.now() - awake.now()) < 5_000
    assert await store.read("offset", presence._offset) == 0
