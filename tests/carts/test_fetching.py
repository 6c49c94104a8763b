"""Carts from a remote archive: whatever that does, a cart becomes ready or says why not; room is never overdrawn."""

from __future__ import annotations

import hashlib
import itertools
import os
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select, text

from datahub.archive import Faulty, cache
from datahub.archive.pacifica import Standing
from datahub.carts import fetch_tables, tables
from datahub.carts.model import Status
from datahub.errors import FinalFault, NoSpace, PassingFault
from tests.carts.test_routes import head, members
from tests.carts.yard import Yard


class Remote:
    """An archive in memory; ``faults`` has what is raised next, by verb and name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[tuple[str, str], list[Any]] = {}
        self.on_tape: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.asked: list[tuple[str, str]] = []

    def _meet(self, verb: str, name: str) -> bytes:
        self.asked.append((verb, name))
        faults = self.faults.get((verb, name), [])
        if faults:
            fault = faults[0] if len(faults) == 1 else faults.pop(0)
            if fault is not None:
                raise fault
        if name not in self.files:
            raise FinalFault(f"{name!r} is not in the archive")
        return self.files[name]

    async def stage(self, name: str) -> None:
        if name not in self.sizes:
            self._meet("stage", name)

    async def look(self, name: str) -> Standing:
        return Standing(
            self.sizes.get(name) or len(self._meet("look", name)), 1_700_000_000 * 10**9, name not in self.on_tape
        )

    async def fetch(self, name: str, target: int, size: int, algorithms: Any, progress: Any) -> dict[str, str]:
        data = self._meet("fetch", name)
        if len(data) != size:
            raise Faulty(f"{len(data)} bytes came of {size}")
        os.pwrite(target, data, 0)
        return {each: hashlib.new(each, data).hexdigest() for each in algorithms}

    def count(self, verb: str) -> int:
        return sum(each == verb for each, _ in self.asked)


@pytest.fixture
def remote():
    return Remote()


@pytest.fixture
def far(tmp_path, remote):
    """Carts before a remote archive."""
    yard = Yard(tmp_path, remote, space=1000, evict_after=60.0, retry_for=3600.0, staging_timeout=7200.0)
    yield yard
    yard.end()


def copies(yard: Yard) -> list[str]:
    """The numbers of the files that there are copies of, one for each; what is being fetched is shown whole."""
    names = sorted(path.name for path in (yard.folder / "carts").rglob("*") if path.is_file())
    return [name if name.endswith(".part") else name.partition(".")[0] for name in names]


async def make(far: Yard, remote: Remote, uid: str, files: dict[str, bytes]) -> None:
    remote.files |= files
    await far.post(uid, {path: path for path in files})
    far.pass_time(4)
    assert far.cart(uid).status is Status.READY, far.cart(uid)


async def test_a_cart_is_fetched(far, remote):
    """Every file is asked for, fetched once, kept with its time and digest, and given in the tar."""
    await make(far, remote, "abc", {"a": b"1" * 10, "b/c": b"2" * 20})
    tar = (await far.client.ask("GET", "/abc?filename=t.tar")).body
    assert members(tar) == {"t/a": b"1" * 10, "t/b/c": b"2" * 20}
    assert remote.count("fetch") == 2
    record = (await far.client.ask("GET", "/carts/abc")).json
    assert record["files"][0]["digests"] == {"sha256": hashlib.sha256(b"1" * 10).hexdigest()}
    assert (await far.client.ask("GET", "/carts/abc/manifest")).status == 200


async def test_one_copy_for_two_carts(far, remote):
    """The same file is fetched and kept once, and stays as long as one of them does."""
    await make(far, remote, "one", {"a": b"1" * 10, "b": b"2"})
    await make(far, remote, "two", {"a": b"1" * 10, "c": b"3"})
    assert remote.count("fetch") == 3
    assert len(copies(far)) == 3
    await far.client.ask("DELETE", "/one")
    far.chore("carts that are gone")
    far.chore("dropped files")
    assert len(copies(far)) == 2
    assert (await far.client.ask("GET", "/two")).status == 200
    await far.client.ask("DELETE", "/two")
    far.chore("carts that are gone")
    assert len(copies(far)) == 2, "they stay while the download that was just begun may go on"
    far.chore("downloads")
    far.chore("carts that are gone")
    far.chore("dropped files")
    assert copies(far) == []


@pytest.mark.parametrize("verb", ["stage", "look", "fetch"])
@pytest.mark.parametrize(
    ("fault", "seconds", "status"),
    [
        (FinalFault("gone for good"), 3, Status.ERROR),
        (Faulty("nonsense"), 60, Status.ERROR),
        (PassingFault("away"), 60, Status.STAGING),
        (TimeoutError("silent"), 60, Status.STAGING),
    ],
)
async def test_a_fault_that_stays(far, remote, verb, fault, seconds, status):
    """What is final ends at once, what can't be right after some tries, what may pass is tried on: never for ever."""
    remote.files["a"] = b"1"
    remote.faults[verb, "a"] = [fault]
    await far.post("abc", {"x/a": "a"})
    far.pass_time(seconds)
    assert far.cart("abc").status is status
    if status is Status.ERROR:
        assert await head(far, "abc") == (500, "error", f"x/a: {fault}")
        assert copies(far) == []
        return
    assert (await far.client.ask("GET", "/carts/abc")).json["waiting_on"]["what"] == "retry"
    far.pass_time(3600 + 900)
    assert far.cart("abc").status is Status.ERROR
    assert "given up" in far.cart("abc").error


@pytest.mark.parametrize("verb", ["stage", "look", "fetch"])
@pytest.mark.parametrize("fault", [Faulty("nonsense"), PassingFault("away"), OSError(28, "No space left on device")])
async def test_a_fault_that_passes(far, remote, verb, fault):
    """The cart becomes ready, and nothing of the failed tries is left."""
    remote.files["a"] = b"1"
    remote.faults[verb, "a"] = [fault, fault, None]
    await far.post("abc", {"a": "a"})
    far.pass_time(30)
    assert far.cart("abc").status is Status.READY
    assert copies(far) == ["1"]


async def test_a_hash_that_does_not_fit(far, remote):
    """It is fetched a few times, then the cart says what it is; one that fits is verified from the copy."""
    remote.files["a"] = b"1"
    md5 = hashlib.md5(b"1", usedforsecurity=False).hexdigest()
    await far.post("bad", [{"id": "a", "path": "a", "hashtype": "md5", "hashsum": "0" * 32}])
    far.pass_time(60)
    assert (await head(far, "bad"))[
        2
    ] == f"a: File hash does not match provided hash: its md5 is {md5}, and {'0' * 32} was given"
    assert remote.count("fetch") == 5
    await far.post("good", [{"id": "a", "path": "a", "hashtype": "md5", "hashsum": md5}])
    far.pass_time(5)
    assert far.cart("good").status is Status.READY
    await far.post("wrong", [{"id": "a", "path": "a", "hashtype": "sha1", "hashsum": "0" * 40}])
    far.pass_time(5)
    assert (await head(far, "wrong"))[0] == 500


async def test_a_tape(far, remote):
    """It is looked at now and then, less and less often; in the end it is there, or was too long in coming."""
    remote.files["a"] = b"1"
    remote.on_tape.add("a")
    await far.post("abc", {"a": "a"})
    far.pass_time(3600)
    assert far.cart("abc").status is Status.STAGING
    assert remote.count("look") < 60
    remote.on_tape.clear()
    far.pass_time(400)
    assert far.cart("abc").status is Status.READY
    remote.files["b"] = b"1"
    remote.on_tape.add("b")
    await far.post("two", {"b": "b"})
    far.pass_time(9000)
    assert "has not staged it within 2 h" in far.cart("two").error


async def test_a_partial_cart(far, remote):
    """What can be had is given, what can't is named."""
    remote.files["a"] = b"1"
    await far.post("abc", {"a": "a", "b": "none"}, partial=True)
    far.pass_time(5)
    found = members((await far.client.ask("GET", "/abc?filename=t.tar")).body)
    assert set(found) == {"t/a", "t/MISSING.txt"}


async def test_too_large_for_ever(far, remote):
    """Refused as soon as its size is known, with the sizes; it evicts nobody."""
    await make(far, remote, "small", {"s": b"1" * 100})
    far.clock.advance(1000)
    remote.files["big"] = bytes(1001)
    await far.post("big", {"big": "big"})
    far.pass_time(5)
    assert far.cart("big").error == "No Space Available: the cart needs 1001 bytes, and carts have 1000 bytes in all"
    assert far.cart("small").status is Status.READY
    assert remote.count("fetch") == 1


async def test_the_least_recently_used_goes(far, remote):
    """By the last use, not by age; one used within evict_after stays, and who finds no room waits for it."""
    for uid in ("one", "two", "three"):
        await make(far, remote, uid, {uid: bytes(300)})
    far.clock.advance(100)
    await far.client.ask("GET", "/one")
    far.clock.advance(61)
    far.chore("downloads")
    await far.client.ask("GET", "/three")
    far.chore("downloads")
    far.clock.advance(100)
    far.chore("downloads")
    await make(far, remote, "four", {"four": bytes(300)})
    assert [far.cart(uid).status for uid in ("one", "two", "three")] == ["ready", "evicted", "ready"]
    assert far.cart("two").reason == "for space"
    reply = await far.client.ask("GET", "/two")
    assert (reply.status, "for space" in reply.headers["x-datahub-reason"]) == (404, True)
    await far.client.ask("GET", "/three")
    await far.client.ask("GET", "/one")
    remote.files["five"] = bytes(900)
    await far.post("five", {"five": "five"})
    far.pass_time(30)
    assert far.cart("five").status is Status.STAGING
    assert far.cart("one").status is Status.READY
    far.pass_time(120)
    far.chore("downloads")
    far.pass_time(120)
    assert far.cart("five").status is Status.READY
    assert sum(path.stat().st_size for path in (far.folder / "carts").rglob("*") if path.is_file()) <= 1000


async def test_an_evicted_cart_comes_back(far, remote):
    """The same body makes it anew; with the same content its tar is the same, so that a download goes on."""
    await make(far, remote, "one", {"a": b"1" * 900})
    first = await far.client.ask("GET", "/carts/one/t.tar")
    far.clock.advance(200)
    far.chore("downloads")
    far.clock.advance(200)
    await make(far, remote, "two", {"b": bytes(900)})
    tag = {"Range": "bytes=5000-", "If-Range": first.headers["etag"]}
    assert (await far.client.ask("GET", "/carts/one/t.tar", headers=tag)).status == 410
    far.clock.advance(200)
    await make(far, remote, "one", {"a": b"1" * 900})
    part = await far.client.ask("GET", "/carts/one/t.tar", headers=tag)
    assert (part.status, part.body) == (206, first.body[5000:])


async def test_a_change_between_asking_and_fetching(far, remote):
    """What was reserved for another size is asked for anew."""
    remote.files["a"] = b"1"
    remote.faults["stage", "a"] = [None]
    remote.on_tape.add("a")
    await far.post("abc", {"a": "a"})
    far.pass_time(3)
    remote.files["a"] = b"22"
    remote.on_tape.clear()
    far.pass_time(30)
    assert members((await far.client.ask("GET", "/abc?filename=t.tar")).body) == {"t/a": b"22"}


async def test_deleted_while_it_is_staged(far, remote):
    """Nothing goes on, and nothing is left."""
    remote.files["a"] = b"1"
    remote.on_tape.add("a")
    await far.post("abc", {"a": "a"})
    far.pass_time(5)
    assert (await far.client.ask("DELETE", "/abc")).status == 200
    far.chore("carts that are gone")
    far.chore("dropped files")
    remote.asked.clear()
    far.pass_time(30)
    assert remote.asked == []
    assert copies(far) == []


async def test_fair_turns(tmp_path):
    """A small cart does not wait for a large one that came before it."""
    remote = Remote()
    far = Yard(tmp_path, remote, archive_concurrent=1)
    remote.files = {f"f{n}": b"1" for n in range(60)} | {"s": b"2"}

    async def slow(*arguments: Any) -> Any:
        far.clock.rightNow += 1.0
        return await Remote.fetch(remote, *arguments)

    remote.fetch = slow  # type: ignore[method-assign,assignment]
    await far.post("large", {name: name for name in remote.files if name != "s"})
    await far.post("small", {"s": "s"})
    far.pass_time(5)
    small, large = (far.cart(uid).time_ready for uid in ("small", "large"))
    assert small is not None
    assert large is not None
    assert small + 20_000 < large
    far.end()


@pytest.mark.parametrize("files", [{"b": "none"}, {"a": "a", "b": "none"}])
async def test_killed_between_a_lost_file_and_the_end_of_its_cart(far, remote, files):
    """A cart that is not partial never becomes ready without a file, though nothing of it waits any more."""
    remote.files["a"] = b"1"
    remote.faults["stage", "none"] = [PassingFault("away")]
    await far.post("abc", files)
    far.pass_time(3)
    cart = far.cart("abc")
    assert cart.status is Status.STAGING
    lost = next(each for each in far.files("abc") if each.name == "none")
    far.store.now(lambda c: fetch_tables.fail_users(c, cart.id, lost.holding, "gone for good"))
    far.pass_time(600)
    assert (far.cart("abc").status, "b: gone for good" in far.cart("abc").error) == (Status.ERROR, True)


@pytest.mark.parametrize("swept", [False, True])
async def test_dropped_while_it_is_fetched(far, remote, swept):
    """The copy that comes too late is not kept: no row, no file, no room taken."""
    remote.files |= {"a": b"1"}

    async def late(*arguments: Any) -> Any:
        assert (await far.client.ask("DELETE", "/abc")).status == 200
        far.chore("carts that are gone")
        if swept:
            far.chore("dropped files")
        return await Remote.fetch(remote, *arguments)

    remote.fetch = late
    await far.post("abc", {"a": "a"})
    far.pass_time(5)
    assert remote.count("fetch") == 1
    far.chore("dropped files")
    assert copies(far) == []
    assert far.store.now(lambda c: c.execute(select(func.count()).select_from(cache.holding)).scalar()) == 0


async def test_a_copy_that_was_kept_is_never_overwritten(far, remote):
    """Each attempt has a name of its own, to the end; who finds that his is not the one that counts removes his."""
    await make(far, remote, "abc", {"a": b"1"})
    late = cache.Cache(far.store, far.folder / "carts", 1000, far.disk)
    (draft,) = late.begin([1], "late.1")
    os.pwrite(draft.opened, b"1", 0)
    (facts,) = late.finish({draft: 1_700_000_000 * 10**9})
    late.let_go([draft])
    assert copies(far) == ["1", "1"]
    await late.disown(1, facts.place)
    assert copies(far) == ["1"]
    kept = far.files("abc")[0].facts
    assert kept is not None
    await late.disown(1, kept.place)
    assert members((await far.client.ask("GET", "/abc?filename=t.tar")).body) == {"t/a": b"1"}


async def test_what_a_kill_has_left_goes_with_the_next_attempt(far, remote):
    """A copy that had its name but was in no row, and one that was being written."""
    folder = far.folder / "carts" / "00"
    folder.mkdir(parents=True)
    for name in ("1.7.1", "1.7.2.part", "12.7.1"):
        (folder / name).write_bytes(b"old")
    await make(far, remote, "abc", {"a": b"1"})
    assert copies(far) == ["1", "12"]


async def test_a_copy_on_a_shared_file_system(far, remote):
    """Another host has another number for the device: that is no change of the file."""
    await make(far, remote, "abc", {"a": b"1"})
    far.store.now(lambda c: c.execute(text("UPDATE cart_file SET facts = '99999' || substr(facts, instr(facts, ':'))")))
    assert far.files("abc")[0].facts.device == 99999
    assert members((await far.client.ask("GET", "/abc?filename=t.tar")).body) == {"t/a": b"1"}


async def test_another_size_each_time(far, remote):
    """An archive that can't make up its mind is asked some times, with pauses, and then given up."""
    remote.files["a"] = b"1"
    sizes = itertools.count(2)

    async def unsure(name: str) -> Standing:
        remote.asked.append(("look", name))
        return Standing(next(sizes), 1_700_000_000 * 10**9, True)

    remote.look = unsure
    await far.post("abc", {"a": "a"})
    far.pass_time(4)
    assert far.cart("abc").status is Status.STAGING
    far.pass_time(60)
    assert far.cart("abc").status is Status.ERROR
    assert far.cart("abc").error in (
        "a: the archive says something else of it each time: another size, or another time",
        "a: 1 bytes came of 6",
    )
    assert remote.count("look") <= 2 * 5


async def test_made_anew_while_the_old_one_is_downloaded(far, remote):
    """The download goes on with what it began with; then the old cart goes, record and copies."""
    await make(far, remote, "abc", {"a": b"1" * 10})
    old = far.cart("abc")
    with far.verbs.downloads.under_way(old, lambda: None):
        assert (await far.client.ask("DELETE", "/abc")).status == 200
        await make(far, remote, "abc", {"b": b"2"})
        far.chore("carts that are gone")
        far.chore("dropped files")
        assert copies(far) == ["1", "2"]
        kept = far.store.now(partial(tables.window, number=old.id, first=0, count=9))
        assert [each.path for each in kept] == ["a"]
    far.chore("carts that are gone")
    far.chore("dropped files")
    assert copies(far) == ["2"]
    assert far.store.now(partial(tables.find, number=old.id)) is None
    assert far.cart("abc").status is Status.READY


async def test_a_fault_that_is_over(far, remote):
    """Once files are staged, the cart tells of no fault any more; what fails then is told of anew."""
    remote.files |= {"a": b"1", "b": b"2"}
    remote.faults["look", "a"] = [PassingFault("away"), PassingFault("away"), None]
    remote.faults["fetch", "b"] = [PassingFault("busy")]
    await far.post("abc", {"a": "a", "b": "b"})
    far.store.away["keep staged files"] = NoSpace("full")
    far.pass_time(30)
    first = far.cart("abc").failing_since
    assert first is not None
    del far.store.away["keep staged files"]
    remote.on_tape.add("b")
    remote.faults.clear()
    far.pass_time(300)
    cart = far.cart("abc")
    assert (cart.status, cart.staged_files) == (Status.STAGING, 1)
    assert (cart.failing_since, cart.error) == (None, None)
    assert (await far.client.ask("GET", "/carts/abc")).json["waiting_on"]["what"] == "tape"
