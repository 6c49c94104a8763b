"""Files of a remote archive that are asked for and copied many in a row: what one meets is no fault of the others."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from sqlalchemy import select
from twisted.internet.defer import Deferred

from datahub.archive import cache
from datahub.carts.fetching import FETCH
from datahub.carts.hands import AT_ONCE
from datahub.carts.model import STAGED, Status
from datahub.errors import FinalFault, Unavailable
from tests.carts.test_fetching import Remote, copies, far, make, remote
from tests.carts.yard import Yard

__all__ = ["far", "remote"]


async def test_requests_of_a_cart(far: Yard, remote: Remote) -> None:
    """Each file is asked for, looked at and fetched, once: where it is right after is no news a moment later."""
    await make(far, remote, "abc", {"a": b"1", "b": b"2"})
    assert remote.asked == [
        ("stage", "a"), ("look", "a"), ("stage", "b"), ("look", "b"), ("fetch", "a"), ("fetch", "b")
    ]  # fmt: skip


async def test_a_look_gets_old(far: Yard, remote: Remote) -> None:
    """Whoever had to wait looks again before he fetches."""
    remote.files["a"] = b"1"
    gate: Deferred[None] = Deferred()
    far.store.gates["reserve room"] = gate
    await far.post("abc", {"a": "a"})
    far.work()
    far.clock.advance(31)
    del far.store.gates["reserve room"]
    gate.callback(None)
    far.pass_time(5)
    assert far.cart("abc").status is Status.READY
    assert remote.count("look") == 2


async def test_one_transaction_for_many(far: Yard, remote: Remote) -> None:
    """Files that come in a row are kept together, and are files of the cart with that."""
    await make(far, remote, "abc", {f"{n:02}": b"%d" % n for n in range(AT_ONCE)})
    assert far.store.names.count("keep staged files") == 2, "one for each of the two helpers"
    assert "files that are here" not in far.store.names


async def test_the_archive_is_asked_while_copies_are_kept(tmp_path: Any, remote: Remote) -> None:
    """It waits neither for the disk nor for the database."""
    far = Yard(tmp_path, remote, archive_concurrent=1)
    remote.files |= {f"{n:02}": b"1" for n in range(2 * AT_ONCE)}
    gate = far.store.gates["keep staged files"] = Deferred()
    await far.post("abc", {name: name for name in remote.files})
    far.work()
    assert remote.count("fetch") == 2 * AT_ONCE
    assert far.cart("abc").staged_files == 0
    del far.store.gates["keep staged files"]
    gate.callback(None)
    far.pass_time(5)
    assert far.cart("abc").status is Status.READY
    far.end()


async def test_what_came_before_a_fault_is_kept(far: Yard, remote: Remote) -> None:
    """The cart ends; asked for again it fetches only what is lacking."""
    remote.files |= {"a": b"1", "b": b"2", "c": b"3"}
    remote.faults["fetch", "b"] = [FinalFault("gone for good")]
    await far.post("abc", {"a": "a", "b": "b", "c": "c"})
    far.pass_time(5)
    assert (far.cart("abc").status, far.cart("abc").error) == (Status.ERROR, "b: gone for good")
    kept = remote.count("fetch") - 1
    assert kept >= 1
    assert len(copies(far)) == kept
    remote.faults.clear()
    remote.asked.clear()
    await far.post("abc", {"a": "a", "b": "b", "c": "c"})
    far.pass_time(5)
    assert far.cart("abc").status is Status.READY
    assert remote.count("fetch") == 3 - kept


@pytest.mark.parametrize("step", ["begin", "finish"])
async def test_a_full_disk(far: Yard, remote: Remote, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be kept is tried again, and nothing of it is left."""
    remote.files |= {"a": b"1", "b": b"2"}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(cache.Cache, step, full)
        await far.post("abc", {"a": "a", "b": "b"})
        far.pass_time(5)
        assert far.cart("abc").status is Status.STAGING
        assert "No space left" in (await far.client.ask("GET", "/carts/abc")).json["waiting_on"]["reason"]
        assert copies(far) == []
    far.pass_time(60)
    assert far.cart("abc").status is Status.READY


async def test_copies_that_could_not_be_written_down(far: Yard, remote: Remote) -> None:
    """Without the database they are nobody's: they are fetched again, and what was left goes."""
    remote.files |= {"a": b"1", "b": b"2"}
    far.store.away["keep staged files"] = Unavailable("the database is away")
    await far.post("abc", {"a": "a", "b": "b"})
    far.pass_time(5)
    assert far.cart("abc").status is Status.STAGING
    far.store.away.clear()
    far.pass_time(60)
    assert far.cart("abc").status is Status.READY
    assert sorted(copies(far)) == ["1", "2"]


async def test_a_cart_that_ended_meanwhile(far: Yard, remote: Remote) -> None:
    """What was copied for it is there for others who want it."""
    remote.files["a"] = b"1"
    gate = far.store.gates["keep staged files"] = Deferred()
    await far.post("one", {"a": "a"})
    await far.post("two", {"a": "a"})
    far.look("carts.stage", FETCH)
    assert (await far.client.ask("DELETE", "/one")).status == 200
    del far.store.gates["keep staged files"]
    gate.callback(None)
    far.pass_time(30)
    assert remote.count("fetch") == 1
    assert far.cart("two").status is Status.READY


async def test_twice_in_one_cart(far: Yard, remote: Remote) -> None:
    """One file by two names is fetched once, and each name has its own digest to be compared with."""
    remote.files["a"] = b"1"
    md5 = hashlib.md5(b"1", usedforsecurity=False).hexdigest()
    entries = [
        {"id": "a", "path": "x"},
        {"id": "a", "path": "y", "hashtype": "md5", "hashsum": md5},
        {"id": "a", "path": "z", "hashtype": "sha1", "hashsum": hashlib.sha1(b"1", usedforsecurity=False).hexdigest()},
    ]
    await far.post("abc", entries)
    far.pass_time(5)
    assert [each.status for each in far.files("abc")] == [STAGED] * 3
    assert [verb for verb, _ in remote.asked] == ["stage", "look", "fetch"]
    row = far.store.now(lambda connection: connection.execute(select(cache.holding)).one())
    assert set(cache.Holding.of(row).digests) == {"sha256", "md5", "sha1"}
