"""What is asked of transfers and their files, on SQLite, PostgreSQL and MariaDB alike."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection

from datahub.auth import Caller
from datahub.kit.aio import gather
from datahub.transfers import claims, file_tables, tables
from datahub.transfers.model import FileRecord, Filter, Status, Submission
from datahub.transfers.movers import Checksum
from datahub.transfers.orphans import _needed
from datahub.transfers.service import _new_transfer, actor_of
from tests.stores import opened

NOW = 1_800_000_000_000
ALICE = Caller("alice", "token", frozenset({"write"}), "10.0.0.2")


def submit(connection: Connection, destination: str = "file:///d", **changes: Any) -> str:
    """Make a transfer, and change it."""
    new = _new_transfer(ALICE, Submission("005", destination), NOW)
    tables.add(connection, new, actor_of(ALICE))
    if changes:
        tables.change(connection, new, NOW, **changes)
    return new.id


async def test_what_is_stuck_and_what_is_usual(database_url: str, reactor: Any) -> None:
    """Each query finds what it should."""
    async with opened(database_url, reactor) as store:
        waiting = await store.run("one", submit)
        done = await store.run("two", partial(submit, status=Status.SUCCESS, time_success=NOW + 5))
        other = await store.run("three", partial(submit, destination="file:///e", status=Status.SUCCESS))
        stuck = await store.run("four", partial(submit, what="stuck", stuck_at=NOW, check_at=None))
        wanted = Filter(limit=10, stuck=True)
        for each in (
            wanted,
            replace(wanted, submitter="alice", statuses=(Status.SUBMITTED,)),
            replace(wanted, since=NOW, until=NOW + 1, newest_first=False, destination="file:///d/"),
            replace(wanted, behind=(NOW + 1, "")),
        ):
            found = await store.read("stuck", partial(tables.find_many, wanted=each))
            assert [one.id for one in found] == [stuck]
        assert await store.read("stuck", partial(tables.find_many, wanted=replace(wanted, submitter="bob"))) == []
        due = partial(tables.unchecked, now=NOW + tables.PATIENCE, limit=9)
        assert [one.id for one in await store.read("due", due)] == [waiting]
        for destination, expected in (("file:///d", {done}), ("file:///e/", {other}), (None, {done, other})):
            past = partial(tables.lately_delivered, destination=destination, limit=5)
            assert {one.id for one in await store.read("past", past)} == expected
        needed = await store.read("needed", partial(_needed, numbers=[waiting, done, "nobody"]))
        assert needed == {waiting}


async def test_files_that_end_in_any_order(database_url: str, reactor: Any) -> None:
    """What is there already is no news; those that failed are forgotten before they are copied anew."""
    files = [FileRecord(number, f"dir/ü{number}", number, None, None) for number in (7, 2, 5)]
    failed = FileRecord(3, "c", 2**40, None, "TRANSFER [110]")
    async with opened(database_url, reactor) as store:
        news = partial(file_tables.news, job="one", files=[*files, failed])
        await store.run("amend", partial(file_tables.amend, job="one", files=files[:2]))
        assert await store.read("news", news) == [files[2], failed]
        await store.run("amend", partial(file_tables.amend, job="one", files=[files[2], failed]))
        assert await store.read("news", news) == []
        await store.run("amend", partial(file_tables.amend, job="two", files=[failed]))
        find = partial(file_tables.find, job="one", first=0, limit=9)
        assert await store.read("find", find) == sorted([*files, failed], key=lambda each: each.number)
        await store.run("forget", partial(file_tables.forget_failed, job="one"))
        done = {each.number: each for each in files}
        assert await store.read("done", partial(file_tables.done, job="one")) == done
        other = FileRecord(7, "other", 1, None, None)
        assert await store.read("news", partial(file_tables.news, job="one", files=[files[1], other])) == [other]
        await store.run("amend", partial(file_tables.amend, job="one", files=[other]))
        assert await store.read("done", partial(file_tables.done, job="one")) == {**done, 7: other}
        assert await store.read("done", partial(file_tables.done, job="two")) == {}


async def test_files(database_url: str, reactor: Any) -> None:
    """They are written in batches, which replace what an earlier attempt has left, and go in batches."""
    files = [FileRecord(number, f"dir/ü{number}", number, Checksum("sha256", "ab" * 32), None) for number in range(10)]
    files[5] = FileRecord(5, "short", 5, Checksum("adler32", "0400019b"), None)
    failed = FileRecord(2, "c", 2**40, None, "no room")
    async with opened(database_url, reactor) as store:
        put = partial(file_tables.put, job="one")
        await store.run("put", partial(put, first=0, files=files[:6]))
        await store.run("put", partial(put, first=6, files=files[6:]))
        await store.run("put", partial(file_tables.put, job="two", first=0, files=files[:1]))
        assert await store.read("find", partial(file_tables.find, job="one", first=4, limit=3)) == files[4:7]
        await store.run("put", partial(put, first=0, files=files[:2]))
        await store.run("put", partial(put, first=2, files=[failed]))
        assert await store.read("find", partial(file_tables.find, job="one", first=0, limit=99)) == [*files[:2], failed]
        forget = partial(file_tables.forget, jobs=["one"], limit=2)
        assert [await store.run("forget", forget) for _ in range(3)] == [2, 1, 0]
        assert len(await store.read("find", partial(file_tables.find, job="two", first=0, limit=9))) == 1


async def test_claims(database_url: str, reactor: Any) -> None:
    """A name is one transfer's until that has ended or is forgotten; of many who come at once one gets it."""
    async with opened(database_url, reactor) as store:
        ids = [await store.run("submit", submit) for _ in range(4)]
        name = "gsiftp://host:2811/" + "x" * 3000

        def taking(number: str) -> Any:
            return store.run("take", partial(claims.take, name=name, transfer=number))

        found = await gather(*(taking(number) for number in ids))
        (holder,) = [number for number, other in zip(ids, found, strict=True) if other is None]
        assert {other for other in found if other is not None} == {holder}
        assert await taking(holder) is None
        assert await store.run("other", partial(claims.take, name=name + "y", transfer=ids[0])) is None
        ended = await store.read("find", partial(tables.find, number=holder))
        assert ended is not None
        await store.run("end", partial(tables.change, transfer_=ended, now=NOW, status=Status.ERROR))
        one, two, _ = (number for number in ids if number != holder)
        assert await taking(one) is None
        assert await taking(two) == one
        await store.run("forget", partial(claims.forget, transfers=[one]))
        assert await taking(two) is None
