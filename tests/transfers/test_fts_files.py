"""The single files of what FTS moves: listed as they arrive, not copied twice, and what FTS can't make is told."""

from __future__ import annotations

from typing import Any

import pytest

from datahub.kit.aio import start
from datahub.transfers import endings, following
from datahub.transfers.landing import STOPPING
from datahub.transfers.model import Status
from datahub.transfers.movers import fts_jobs
from datahub.transfers.movers.fts import TooLarge
from tests.transfers.depot import caller
from tests.transfers.fts_depot import TARGET, FtsDepot
from tests.transfers.test_files import ALICE, listed

TIMED_OUT = "TRANSFER [110] Connection timed out"


@pytest.fixture
def depot(monkeypatch):
    monkeypatch.setattr(endings, "uniform", lambda low, high: 1.0)
    depot = FtsDepot()
    yield depot
    depot.end()


async def states(depot: FtsDepot, number: str) -> dict[str, str]:
    found = (await listed(depot.client(), number)).json["items"]
    return {each["path"]: each["state"] for each in found}


def end(depot: FtsDepot, number: str, *names: str) -> None:
    """Let FTS copy single files of the job of a transfer."""
    job = depot.fake.jobs[depot.job(number)]
    for file in job["files"]:
        if file["dest_surl"].rpartition("/")[2] in names:
            depot.fake._end(job, file, "FINISHED", "")


def targets(depot: FtsDepot) -> list[str]:
    """What the last submission was to copy."""
    files = depot.fake.submissions[-1]["files"]
    return [each["destinations"][0].removeprefix(f"{TARGET}005/") for each in files]


def again(depot: FtsDepot, number: str) -> None:
    depot.wait_for_retry(number)
    depot.move()


async def test_files_are_listed_as_they_arrive(depot):
    """With their sizes, under their own names; what FTS still has to do is not listed. So the progress is told."""
    depot.tree.names = ["a b", "c", "d"]
    number = depot.handed_tree()
    depot.fake.run(depot.job(number))
    depot.follow()
    assert await states(depot, number) == {}
    end(depot, number, "a%20b")
    depot.follow()
    found = (await listed(depot.client(), number)).json["items"]
    assert found == [{"path": "a b", "size": 1000, "state": "DELIVERED"}]
    shown = (await depot.client().ask("GET", f"/transfers/{number}", headers=ALICE)).json
    assert (shown["status"], shown["progress"]["done"], shown["progress"]["total"]) == ("TRANSFERRING", 1000, 3000)
    assert shown["fts_details"]["files"] == {"FINISHED": 1, "ACTIVE": 2}
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert await states(depot, number) == dict.fromkeys(["a b", "c", "d"], "DELIVERED")
    assert depot.transfer(number).status is Status.SUCCESS


async def test_a_single_file(depot):
    """It is listed by its name when it has arrived, and written with the end of the transfer."""
    number = depot.handed()
    assert await states(depot, number) == {}
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert await states(depot, number) == {"005": "DELIVERED"}
    assert "keep files at FTS" not in depot.store.names


async def test_a_checksum_by_which_it_was_verified(depot):
    """FTS repeats what it was given, and tells no other."""
    number = depot.handed(checksum="ADLER32:0AB40218")
    depot.fake.finish(depot.job(number))
    depot.follow()
    (found,) = (await listed(depot.client(), number)).json["items"]
    assert found["checksums"] == {"adler32": "0ab40218"}


async def test_only_what_is_missing_is_copied_again(depot):
    """GridFTP servers tell nothing of what is in the way: FTS hears no more of what it has copied."""
    number = depot.handed_tree()
    depot.fake.finish(depot.job(number), "FINISHED", "FAILED", reason=TIMED_OUT)
    depot.follow()
    found = (await listed(depot.client(), number)).json["items"]
    assert found[1] == {"path": "c", "size": 1000, "state": "FAILED", "error": TIMED_OUT}
    again(depot, number)
    assert targets(depot) == ["c"]
    assert await states(depot, number) == {"a b": "DELIVERED"}
    depot.fake.finish(depot.job(number))
    depot.follow()
    done = depot.transfer(number)
    assert (done.status, done.files, done.size) == (Status.SUCCESS, 2, 2000)
    assert await states(depot, number) == {"a b": "DELIVERED", "c": "DELIVERED"}
    assert set(depot.copies().values()) == {1}


async def test_what_was_removed_before_a_retry_is_copied_again(depot):
    """Who has a transfer retried may have cleared up: FTS is asked about all files, and what is there is ours."""
    depot.tree.names = ["a", "b", "c"]
    number = depot.handed_tree()
    reason = "DESTINATION [13] Permission denied"
    depot.fake.finish(depot.job(number), "FINISHED", "FINISHED", "FAILED", reason=reason)
    depot.follow()
    assert depot.transfer(number).status is Status.ERROR
    del depot.fake.there[f"{TARGET}005/b"]
    start(depot.verbs.retry(caller(), number))
    depot.move()
    assert targets(depot) == ["a", "b", "c"]
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert depot.transfer(number).status is Status.SUCCESS
    assert depot.copies() == {f"{TARGET}005/a": 1, f"{TARGET}005/b": 2, f"{TARGET}005/c": 1}


async def test_a_product_that_is_another_by_now(depot):
    """What was copied of the old one is not taken for a part of the new one."""
    number = depot.handed_tree()
    depot.fake.finish(depot.job(number), "FINISHED", "FAILED", reason=TIMED_OUT)
    depot.follow()
    depot.tree.size = 7
    again(depot, number)
    assert targets(depot) == ["a%20b", "c"]
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert depot.transfer(number).status is Status.ERROR
    assert "Destination file exists" in depot.transfer(number).detailed_status
    assert await states(depot, number) == {"a b": "FAILED", "c": "DELIVERED"}


async def test_many_files_are_written_in_batches(depot, monkeypatch):
    """However many have ended when a job is looked at; nothing is written while nothing happens."""
    monkeypatch.setattr(following, "BATCH", 3)
    depot.tree.names = [f"{each:02}" for each in range(11)]
    number = depot.handed_tree()
    depot.follow()
    end(depot, number, *depot.tree.names[:7])
    for _ in range(4):
        depot.follow()
    assert await states(depot, number) == dict.fromkeys(depot.tree.names[:7], "DELIVERED")
    assert depot.store.names.count("keep files at FTS") == 3
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert await states(depot, number) == dict.fromkeys(depot.tree.names, "DELIVERED")
    assert depot.transfer(number).status is Status.SUCCESS


async def test_a_tree_that_is_too_large(depot, monkeypatch):
    """FTS could not tell of so many files: it is refused before FTS hears of it, with the number and a remedy."""
    monkeypatch.setattr(fts_jobs, "LARGEST", 2 * (fts_jobs.TOLD + len(f"{TARGET}005/a%20b")) - 1)
    number = depot.handed_tree()
    assert depot.transfer(number).status is Status.TRANSFERRING
    depot.tree.names = ["a b", "a c"]
    number = depot.handed_tree()
    found = depot.transfer(number)
    told = "product '005' has 2 files, and FTS can't tell of so many in one job: deliver its folders one by one, or"
    assert (found.status, told in found.detailed_status) == (Status.ERROR, True)
    assert len(depot.fake.submissions) == 1


async def test_reasons_that_are_too_long(depot, monkeypatch):
    """The job has its end all the same: what has arrived is listed, and only the rest is copied again."""
    ask = depot.fts._ask

    async def limited(method: str, path: str, *more: Any) -> Any:
        if ",reason" in path:
            raise TooLarge("the answer is too large")
        return await ask(method, path, *more)

    monkeypatch.setattr(depot.fts, "_ask", limited)
    number = depot.handed_tree()
    depot.fake.finish(depot.job(number), "FINISHED", "FAILED", reason=TIMED_OUT)
    depot.follow()
    assert "1 of 2 files failed: FTS has told no reason" in depot.transfer(number).detailed_status
    assert await states(depot, number) == {"a b": "DELIVERED", "c": "FAILED"}
    again(depot, number)
    assert targets(depot) == ["c"]
    depot.fake.finish(depot.job(number))
    depot.follow()
    assert (depot.transfer(number).status, set(depot.copies().values())) == (Status.SUCCESS, {1})


async def test_a_job_of_many_files_is_asked_about_less_often(depot, monkeypatch):
    """For all of them are told of, each time."""
    monkeypatch.setattr(following, "PER_FILE", 30_000)
    depot.handed_tree()
    depot.follow()
    begun, asked = depot.clock.seconds(), len(depot.fake.asked)
    depot.follow()
    assert (depot.clock.seconds() - begun, len(depot.fake.asked)) == (60, asked + 1)


async def test_empty_folders(depot):
    """FTS makes none, which the record tells; a folder with files in it comes to be with them."""
    depot.tree.names = ["a/", "a/b/", "c/", "c/d", "e/"]
    number = depot.handed_tree()
    depot.fake.finish(depot.job(number))
    depot.follow()
    told = f"delivered and verified: {TARGET}005; without 2 empty folders, of which FTS makes none"
    assert depot.transfer(number).detailed_status == told


@pytest.mark.parametrize("arrived", [0, 1])
async def test_what_a_cancellation_leaves(depot, arrived):
    """FTS has been copying: what it has done is told, and what it may have left behind."""
    number = depot.handed_tree()
    depot.fake.run(depot.job(number))
    if arrived:
        end(depot, number, "a%20b")
    start(depot.verbs.cancel(caller(), number))
    depot.move()
    depot.fake.stop_copies(depot.job(number))
    depot.follow()
    depot.follow()
    found = depot.transfer(number)
    told = "1 file had arrived before, and are" if arrived else "while it was copied; FTS removes what it has begun"
    assert found.status is Status.CANCELLED
    assert told in found.detailed_status
    assert len(await states(depot, number)) == 2


async def test_a_file_that_is_held_for_ever(depot):
    """Its storage was banned, then it was cancelled: FTS leaves the file as it is, which is not waited for."""
    number = depot.handed()
    (file,) = depot.fake.jobs[depot.job(number)]["files"]
    file["file_state"] = "ON_HOLD"
    start(depot.verbs.cancel(caller(), number))
    depot.move()
    for _ in range(3):
        depot.follow()
    assert depot.transfer(number).status is Status.CANCELLING
    depot.clock.advance(STOPPING / 1000)
    for _ in range(2):
        depot.follow()
        depot.move()
    assert depot.transfer(number).status is Status.CANCELLED


async def test_somebody_else_cancels_what_has_run_for_long(depot):
    """A copy has its time to stop from the cancellation on, however long it was ACTIVE: it may end well still."""
    number = depot.handed()
    depot.fake.run(depot.job(number))
    depot.follow()
    depot.clock.advance(2 * STOPPING / 1000)
    depot.fake._cancel(depot.fake.jobs[depot.job(number)])
    depot.follow()
    assert depot.transfer(number).status is Status.TRANSFERRING
    depot.fake.stop_copies(depot.job(number), "FINISHED")
    for _ in range(30):
        depot.follow()
    assert depot.transfer(number).status is Status.SUCCESS
