"""Room for what is fetched, copies that were lost, and counts that are true."""

from __future__ import annotations

from pathlib import Path

from datahub.carts.model import Status
from tests.carts.test_fetching import Remote, copies, far, make, remote
from tests.carts.yard import Yard

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
    first, second = sorted(map(yard.cart, "ab"), key=lambda each: each.status)
    assert first.status is Status.ERROR
    assert "No Space Available: the cart has waited 2 min" in (first.error or "")
    assert second.status in (Status.ERROR, Status.READY)
    yard.end()


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
