"""The rows of jobs, on SQLite, PostgreSQL and MariaDB alike."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytest_twisted

from datahub.errors import Superseded
from datahub.events import HUB
from datahub.jobs import tables
from datahub.jobs.files import Files
from datahub.jobs.housekeeping import Housekeeping, Keep
from datahub.jobs.model import Filter, Job, Spec, Status
from datahub.jobs.pipeline import RUN
from datahub.kit.clock import HubClock
from datahub.kit.threads import InlinePool
from datahub.processes.runner import Written
from datahub.store import Store
from datahub.work import ledger
from tests.stores import opened

LONG = "x" * 300_000
SPEC = Spec(["bash", "-c", "true"], 30.0, 10.0, "/tmp", 1 << 20, env={"A": "ü"}, stdin=LONG)


def job(number: str, **more: Any) -> Job:
    values: dict[str, Any] = dict.fromkeys(Job.__slots__)
    values |= {"id": number, "submitter": "alice", "status": Status.CREATED, "command": "true", "shell": True}
    values |= {"spec": SPEC, "reason": "", "output": (), "time_created": int(number)}
    return Job(**{**values, **more})


@pytest_twisted.async_yield_fixture
async def store(database_url: str, reactor: Any) -> Any:
    """A started store with the lane of jobs."""
    async with opened(database_url, reactor) as store:
        await store.run("declare", partial(ledger.declare, name=RUN, slots=None))
        yield store


async def add(store: Store, *jobs: Job) -> None:
    for each in jobs:
        assert await store.run("add", partial(tables.add, new=each, actor=HUB))


async def test_a_job_from_start_to_end(store: Store) -> None:
    """Created once, begun by the one that claims it, ended once; all of it comes back as it was."""
    await add(store, job("1", command=LONG, name="n"))
    assert not await store.run("add", partial(tables.add, new=job("1"), actor=HUB))

    def start(connection: Any) -> None:
        found = tables.find(connection, "1", lock=True)
        assert found is not None
        tables.change(connection, found, 5, status=Status.STARTED, time_requested=5)
        ledger.enqueue(connection, RUN, "1", "alice")

    await store.run("start", start)
    with pytest.raises(Superseded):
        await store.run("again", partial(tables.change, job_=job("1"), now=6, status=Status.STARTED))
    assert await store.read("queued", partial(tables.queued, lane=RUN, numbers=["1", "2"])) == {"1"}
    (item,) = await store.run("claim", partial(ledger.claim, name=RUN, count=9, owner="me"))
    begin = partial(tables.begin, numbers=["1"], now=7, node="hub1")
    begun = (await store.run("begin", partial(begin, fresh=["1"])))["1"]
    assert (begun.spec, begun.time_started, begun.node, begun.command) == (SPEC, 7, "hub1", LONG)
    again = (await store.run("begin", partial(begin, fresh=[], now=8, node="hub2")))["1"]
    assert (again.time_started, again.node) == (7, "hub1")
    assert await store.read("queued", partial(tables.queued, lane=RUN, numbers=["1"])) == set()

    written = (Written(5, 1, 2, "fault"), Written())
    ended: dict[str, Any] = {
        "status": Status.STOPPED,
        "reason": "lost",
        "usage": (0.5, 1.0, 9),
        "output": written,
        "signal": "killed",
    }

    def end(connection: Any) -> None:
        ledger.settle(connection, item, "me")
        tables.change(connection, begun, 9, time_stopped=9, exit_code=3, **ended)

    await store.run("end", end)
    found = await store.read("find", partial(tables.find, number="1"))
    assert found is not None
    assert {name: getattr(found, name) for name in ended} == ended
    assert (found.spec, found.exit_code, found.name) == (None, 3, "n")
    assert await store.read("spec", partial(tables.find_spec, number="1")) == SPEC
    assert await store.read("spec", partial(tables.find_spec, number="2")) is None


async def test_lists(store: Store) -> None:
    """By each filter, in both orders, page by page."""
    await add(
        store,
        *(job(str(n), submitter="ab"[n % 2], name=f"n{n % 3}", time_created=n // 2) for n in range(10)),
        job("99", status=Status.STOPPED),
    )

    async def ids(**wanted: Any) -> list[str]:
        found = await store.read("list", partial(tables.find_many, wanted=Filter(**{"limit": 99, **wanted})))
        assert all(each.spec is None for each in found)
        return [each.id for each in found]

    assert await ids(submitter="a") == ["8", "6", "4", "2", "0"]
    assert await ids(name="n0", newest_first=False) == ["0", "3", "6", "9"]
    assert await ids(statuses=(Status.STOPPED,)) == ["99"]
    assert await ids(since=2, until=4) == ["7", "6", "5", "4"]
    assert await ids(statuses=(Status.CREATED, Status.STOPPED), limit=3) == ["99", "9", "8"]
    assert await ids(behind=(4, "8"), limit=3) == ["7", "6", "5"]
    assert await ids(behind=(0, "1"), newest_first=False, limit=2) == ["2", "3"]
    assert await store.read("oldest", tables.oldest) == {"created": 0}


async def test_what_is_forgotten(store: Store, tmp_path: Any) -> None:
    """Jobs that ended long ago, those nobody starts, those beyond the number kept; files with them, and strays."""
    now = 1_000_000_000
    clock = HubClock(lambda: now / 1000)

    def ended(number: int, age: int) -> Job:
        return job(str(number), status=Status.STOPPED, time_stopped=now - age)

    await add(store, ended(1, 5000), ended(2, 3000), ended(3, 2000), ended(4, 1000))
    await add(store, job("5", time_created=now - 500), job("6", time_created=now - 50))
    await add(store, job("7", time_created=1, status=Status.STARTED))
    folder = tmp_path / "jobs"
    folder.mkdir()
    for name in ("1.out", "2.out", "3.err", "4.out", "8.in"):
        (folder / name).touch()
    files = Files(folder, InlinePool())
    house = Housekeeping(store, clock, files, Keep(4000, 100, 2))
    await house.forget_old()
    left = await store.read("list", partial(tables.find_many, wanted=Filter(99)))
    assert sorted(each.id for each in left) == ["3", "4", "6", "7"]
    assert sorted(each.name for each in folder.iterdir()) == ["3.err", "4.out", "8.in"]
    await house.forget_files()
    assert len(list(folder.iterdir())) == 3
    later = Housekeeping(store, HubClock(lambda: 1e11), files, Keep(4000, 100, 2))
    await later.forget_files()
    assert sorted(each.name for each in folder.iterdir()) == ["3.err", "4.out"]
