"""Room for what is fetched, copies that were lost, and counts that are true."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select

from datahub.carts import housekeeping, line, tables
from datahub.carts.fetching import FETCH
from datahub.carts.model import Status
from tests.carts.test_fetching import Remote, copies, far, make, remote
from tests.carts.yard import START, Yard

__all__ = ["far", "remote"]


async def test_a_copy_that_was_lost_is_fetched_again(far: Yard, remote: Remote) -> None:
    """What is on record is looked at before a second cart is given it; also when it was changed."""
    await make(far, remote, "one", {"a": b"1" * 10})
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"2" * 10)):
        (path,) = [each for each in (far.folder / "carts").rglob("*") if each.is_file()]
        damage(path)
        before = remote.count("fetch")
        await make(far, remote, f"again{before}", {"a": b"1" * 10})
        assert remote.count("fetch") == before + 1
        answer = await far.client.ask("GET", f"/carts/again{before}/files/a")
        assert (answer.status, answer.body) == (200, b"1" * 10)
        assert len(copies(far)) == 1


async def test_what_waits_for_room_for_ever_does_not(tmp_path: Path, remote: Remote) -> None:
    """Two carts that each hold what the other one needs: one ends with the reason, and the other one goes on."""
    yard = Yard(tmp_path, remote, space=1000, evict_after=60.0, staging_timeout=120.0)
    sizes = {"a1": 400, "b1": 400, "a2": 50, "b2": 50}
    remote.files |= {name: bytes(size) for name, size in sizes.items()}
    remote.on_tape |= {"a2", "b2"}
    for cart in "ab":
        await yard.post(cart, {"1": f"{cart}1", "2": f"{cart}2"})
    yard.pass_time(10)
    assert [yard.cart(cart).staged_files for cart in "ab"] == [1, 1]
    remote.files |= {"a2": bytes(300), "b2": bytes(300)}
    remote.on_tape.clear()
    yard.pass_time(400)
    first, second = map(yard.cart, "ab")
    assert "No Space Available: the cart has waited 2 min" in (first.error or "")
    assert first.status is Status.EVICTED, "once nobody could be said to look at it any more"
    assert second.status is Status.READY
    yard.end()


async def crowd(yard: Yard, remote: Remote) -> ExitStack:
    """A cart that is downloaded and can't go, a large one that waits for its room, and two small ones behind that."""
    await make(yard, remote, "old", {"old": bytes(600)})
    download = ExitStack()
    download.enter_context(yard.verbs.downloads.under_way(yard.cart("old"), lambda: None))
    remote.files |= {"large": bytes(800), "s1": bytes(100), "s2": bytes(100)}
    for uid in ("large", "s1", "s2"):
        await yard.post(uid, {uid: uid})
        yard.pass_time(7)
    return download


async def waiting_on(yard: Yard, uid: str) -> dict[str, str]:
    found: dict[str, str] = (await yard.client.ask("GET", f"/carts/{uid}")).json["waiting_on"]
    return found


def fetched(remote: Remote) -> list[str]:
    return [name for verb, name in remote.asked if verb == "fetch"]


async def test_a_large_cart_is_not_overtaken(far: Yard, remote: Remote) -> None:
    """Small ones that came later wait until it has its room, and say so; then each has its turn at once."""
    download = await crowd(far, remote)
    since = (await waiting_on(far, "large"))["since"]
    for _ in range(3):
        far.pass_time(100)
        assert [(await waiting_on(far, uid))["what"] for uid in ("large", "s1", "s2")] == ["room", "turn", "turn"]
    assert (await waiting_on(far, "large"))["since"] == since
    assert fetched(remote) == ["old"]
    with download:
        pass
    far.chore("downloads")
    far.clock.advance(61)
    far.pass_time(5)
    assert [far.cart(uid).status for uid in ("old", "large", "s1", "s2")] == ["evicted", "ready", "ready", "ready"]
    assert fetched(remote) == ["old", "large", "s1", "s2"]


async def test_what_needs_no_room_waits_for_nobody(far: Yard, remote: Remote) -> None:
    """Files that are here already, and empty ones, pass those that stand in line."""
    with await crowd(far, remote):
        remote.files["empty"] = b""
        await far.post("again", {"x": "old", "y": "empty"})
        far.pass_time(5)
        assert far.cart("again").status is Status.READY
        assert far.cart("large").status is Status.STAGING


@pytest.mark.parametrize("how", ["timeout", "delete"])
async def test_the_next_in_line(tmp_path: Path, remote: Remote, how: str) -> None:
    """When the first one comes to its end, the next one has its turn at once, and time of its own to wait."""
    yard = Yard(tmp_path, remote, space=1000, staging_timeout=120.0)
    with await crowd(yard, remote):
        if how == "delete":
            assert (await yard.client.ask("DELETE", "/large")).status == 200
        else:
            yard.pass_time(90)
            assert yard.cart("large").status is Status.STAGING
            while yard.cart("large").status is Status.STAGING:
                yard.pass_time(0.5)
            assert "the cart has waited 2 min" in (yard.cart("large").error or "")
        yard.pass_time(0.5)
        assert [yard.cart(uid).status for uid in ("s1", "s2")] == ["ready", "ready"]
    yard.end()


async def test_the_line_is_the_clusters(far: Yard, remote: Remote) -> None:
    """Another hub gives no room to a small cart either, while one of the first hub's waits for it."""
    there = Yard(far.folder, remote, beside=far, space=1000, evict_after=60.0)
    with await crowd(far, remote):
        remote.files["s3"] = bytes(100)
        await there.post("s3", {"s3": "s3"})
        there.pass_time(20)
        assert (await waiting_on(there, "s3"))["what"] == "turn"
        assert fetched(remote) == ["old"]
        assert (await there.client.ask("DELETE", "/large")).status == 200
        there.pass_time(1)
        assert [there.cart(uid).status for uid in ("s1", "s2", "s3")] == ["ready", "ready", "ready"]
        assert fetched(remote) == ["old", "s1", "s2", "s3"]
    there.end()


async def test_a_first_one_that_can_not_ask(far: Yard, remote: Remote) -> None:
    """While something else keeps a cart from asking, it holds up nobody; its place it keeps."""
    with await crowd(far, remote):
        behind = partial(line.is_behind, number=far.cart("s1").id)
        for waiting, expected in (('{"what":"retry","since":1}', False), ('{"what":"room","since":1}', True)):
            far.store.now(partial(tables.change, before=far.cart("large"), now=START, waiting=waiting))
            assert far.store.now(behind) is expected


async def test_one_that_holds_room_and_needs_more(far: Yard, remote: Remote) -> None:
    """It does not wait for one who waits for what it holds."""
    remote.files |= {"b1": bytes(500), "b2": bytes(50), "large": bytes(800), "s": bytes(10)}
    remote.on_tape.add("b2")
    for uid, names in {"b": ("b1", "b2"), "large": ("large",), "s": ("s",)}.items():
        await far.post(uid, {name: name for name in names})
        far.pass_time(5)
    assert [(await waiting_on(far, uid))["what"] for uid in ("b", "large", "s")] == ["tape", "room", "turn"]
    remote.files["b2"] = bytes(400)
    remote.on_tape.clear()
    far.pass_time(30)
    assert [far.cart(uid).status for uid in ("b", "large", "s")] == ["ready", "staging", "staging"]
    far.pass_time(90)
    assert [far.cart(uid).status for uid in ("b", "large", "s")] == ["evicted", "ready", "ready"]
    assert far.store.now(lambda c: c.execute(select(line.line)).all()) == []


async def test_deleted_while_it_asks(far: Yard, remote: Remote) -> None:
    """It has no room, and no place in line."""
    remote.files["a"] = b"1"
    await far.post("abc", {"a": "a"})
    gone = partial(tables.change, now=START, status=Status.DELETED)
    far.store.before["reserve room"] = lambda connection: gone(connection, far.cart("abc"))
    far.pass_time(10)
    assert "reserve room" in far.store.names
    assert fetched(remote) == []
    assert far.store.now(lambda c: c.execute(select(line.line)).all()) == []


def test_where_carts_ask_for_room() -> None:
    """The lane in which the first in line is woken is the one that they ask in."""
    assert line.LANE == FETCH


async def test_room_that_is_only_to_be_swept(far: Yard, remote: Remote) -> None:
    """Nobody is evicted for room that a cart which is gone leaves in a moment."""
    await make(far, remote, "old", {"a": bytes(300)})
    await make(far, remote, "gone", {"b": bytes(700)})
    far.clock.advance(3600)
    await far.client.ask("DELETE", "/gone")
    far.chore("carts that are gone")
    await make(far, remote, "new", {"c": bytes(300)})
    assert far.cart("old").status is Status.READY


async def test_each_file_is_counted_once(far: Yard, remote: Remote) -> None:
    """Also where several helpers find the same file to be taken up."""
    await make(far, remote, "abc", {str(number): bytes([number]) for number in range(60)})
    cart = far.cart("abc")
    assert (cart.staged_files, cart.staged_size) == (60, 60)


async def test_what_no_database_can_sum_up(far: Yard, remote: Remote) -> None:
    """Sizes beyond 63 bits together are those of a cart that is too large, and no internal fault."""
    remote.sizes |= {str(number): 2 * 10**18 for number in range(12)}
    await far.post("abc", {name: name for name in remote.sizes})
    far.pass_time(10)
    assert (far.cart("abc").error or "").startswith("No Space Available: the cart needs 24000000000000000000 bytes")


async def test_many_files_go_in_steps(far: Yard, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a cart that is gone, each with a transaction of its own: nobody waits for all of them."""
    monkeypatch.setattr(housekeeping, "FILES", 2)
    await make(far, remote, "abc", dict.fromkeys("abcde", b"1"))
    await make(far, remote, "two", {"a": b"1", "z": b"2"})
    assert (await far.client.ask("DELETE", "/abc")).status == 200
    far.store.names.clear()
    far.chore("carts that are gone")
    assert far.store.names.count("free carts") == 4, "three for the files, and one that finds nothing left"
    assert far.files("abc") == []
    far.chore("dropped files")
    assert len(copies(far)) == 2
    assert far.cart("two").status is Status.READY
