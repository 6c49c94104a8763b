"""The two clocks of a file from a remote archive, its tries, and what the cart's record says that it waits for."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from datahub.archive import Faulty
from datahub.carts import tables
from datahub.carts.model import Status
from datahub.errors import NoSpace, PassingFault, Unavailable
from datahub.kit.clock import rfc3339
from tests.carts.test_fetching import Remote
from tests.carts.yard import Yard

HOUR = 3600.0


@pytest.fixture
def remote():
    """An archive in memory."""
    return Remote()


@pytest.fixture
def far(tmp_path, remote):
    """Carts before a remote archive: faults may last an hour, a tape two."""
    yard = Yard(tmp_path, remote, space=1000, retry_for=HOUR, staging_timeout=2 * HOUR)
    yield yard
    yard.end()


async def waiting_on(far: Yard, uid: str = "abc") -> dict[str, str]:
    found: dict[str, str] = (await far.client.ask("GET", f"/carts/{uid}")).json["waiting_on"]
    return found


async def test_a_fault_after_a_long_wait_for_a_tape(far, remote):
    """It may last as long as any other: the wait for the tape is no part of it."""
    remote.files["a"] = b"1"
    remote.on_tape.add("a")
    await far.post("abc", {"a": "a"})
    far.pass_time(1.5 * HOUR)
    remote.faults["look", "a"] = [PassingFault("away")]
    far.pass_time(0.9 * HOUR)
    assert far.cart("abc").status is Status.STAGING
    assert (await waiting_on(far))["reason"] == "away"
    remote.on_tape.clear()
    remote.faults.clear()
    far.pass_time(700)
    assert far.cart("abc").status is Status.READY


async def test_faults_between_two_looks_at_a_tape(far, remote):
    """Each look that succeeds ends them, so that some now and then never sum up; the tape's own clock goes on."""
    remote.files["a"] = b"1"
    remote.on_tape.add("a")
    remote.faults["look", "a"] = [None] + 20 * [PassingFault("away"), None, None]
    await far.post("abc", {"a": "a"})
    far.pass_time(1.9 * HOUR)
    assert far.cart("abc").status is Status.STAGING
    far.pass_time(0.3 * HOUR)
    assert far.cart("abc").error == "a: the archive has not staged it within 2 h"


async def test_back_on_its_tape(far, remote):
    """A file that the archive has let go of while there was no room here is asked for again."""
    remote.files |= {"a": bytes(600), "b": bytes(600)}
    await far.post("one", {"a": "a"})
    far.pass_time(5)
    await far.post("two", {"b": "b"})
    far.pass_time(60)
    assert (await waiting_on(far, "two"))["what"] == "room"
    assert remote.asked.count(("stage", "b")) == 1
    remote.on_tape.add("b")
    assert (await far.client.ask("DELETE", "/one")).status == 200
    far.chore("carts that are gone")
    far.chore("dropped files")
    far.pass_time(60)
    assert (await waiting_on(far, "two"))["what"] == "tape"
    assert remote.asked.count(("stage", "b")) == 2
    remote.on_tape.clear()
    far.pass_time(60)
    assert far.cart("two").status is Status.READY


@pytest.mark.parametrize("verb", ["stage", "look", "fetch"])
async def test_an_outage_is_no_try(far, remote, verb):
    """However often the archive is away, a file may arrive damaged as often as without that."""
    remote.files["a"] = b"1"
    remote.faults[verb, "a"] = [*(8 * [PassingFault("away"), TimeoutError("silent")]), *(4 * [Faulty("cut")]), None]
    await far.post("abc", {"a": "a"})
    far.pass_time(HOUR)
    assert (far.cart("abc").status, far.cart("abc").error) == (Status.READY, None)


@pytest.mark.parametrize("verb", ["stage", "look", "fetch"])
async def test_the_archive_is_away_for_long(far, remote, verb):
    """It is asked more and more rarely, then the file is given up, and the text says for how long that was tried."""
    remote.files["a"] = b"1"
    remote.faults[verb, "a"] = [PassingFault("away")]
    await far.post("abc", {"a": "a"})
    far.pass_time(0.98 * HOUR)
    assert far.cart("abc").status is Status.STAGING
    assert remote.count(verb) < 30
    far.pass_time(0.15 * HOUR)
    assert far.cart("abc").status is Status.ERROR
    assert far.cart("abc").error.startswith("a: given up after 1.1 h: ")


async def test_what_a_cart_waits_for(far, remote):
    """The record says what, since when and when next: a fault before a tape, and none once it is over."""
    remote.files |= {"a": b"1", "b": b"2"}
    remote.on_tape.add("b")
    began = far.hub_clock.wall()
    await far.post("abc", {"a": "a", "b": "b"})
    assert await waiting_on(far) == {"what": "slot", "since": rfc3339(began)}
    far.pass_time(30)
    told = await waiting_on(far)
    assert (told["what"], "reason" in told) == ("tape", False)
    assert rfc3339(began) <= told["since"] < rfc3339(far.hub_clock.wall()) < told["next_at"]
    remote.faults["look", "b"] = [PassingFault("away")]
    failing = far.hub_clock.wall()
    far.pass_time(300)
    fault = await waiting_on(far)
    assert (fault["what"], fault["reason"]) == ("retry", "away")
    assert rfc3339(failing) < fault["since"] < rfc3339(far.hub_clock.wall()) < fault["next_at"]
    remote.faults.clear()
    far.pass_time(300)
    assert await waiting_on(far) == told | {"next_at": (await waiting_on(far))["next_at"]}
    assert far.cart("abc").error is None


@pytest.mark.parametrize("fault", [NoSpace("the disk is full"), Unavailable("the database is away")])
async def test_the_carts_own_clock(far, remote, fault):
    """What the cart itself meets has its time, whatever its files met before; the text is the fault's own."""
    remote.files["a"] = b"1"
    remote.faults["look", "a"] = [PassingFault("away")]
    await far.post("abc", {"a": "a"})
    far.pass_time(0.8 * HOUR)
    remote.faults.clear()
    far.store.away["keep staged files"] = fault
    far.pass_time(0.8 * HOUR)
    assert far.cart("abc").status is Status.STAGING
    told = await waiting_on(far)
    assert (told["what"], told["reason"]) == ("retry", str(fault))
    assert told["next_at"] > rfc3339(far.hub_clock.wall())
    far.store.away.clear()
    far.pass_time(1200)
    assert far.cart("abc").status is Status.READY


async def test_a_turn_ends_when_it_is_time(far, remote):
    """With an archive that takes its time for each answer others have their turns, and what was not come to is free."""
    remote.files = {f"f{n}": b"1" for n in range(40)} | {"s": b"2"}

    async def slow(name: str) -> None:
        far.clock.rightNow += 30.0
        await Remote.stage(remote, name)

    remote.stage = slow
    await far.post("large", {name: name for name in remote.files if name != "s"})
    await far.post("small", {"s": "s"})
    far.pass_time(2000)
    small, large = (far.cart(uid).time_ready for uid in ("small", "large"))
    assert small is not None
    assert large is not None
    assert small + 600_000 < large


async def test_a_file_archive_that_gets_on(yard):
    """Its cart tells of a fault no more once further files are staged."""
    files = {f"{n:04}": b"x" for n in range(501)}
    for name, data in files.items():
        yard.put(name, data)
    yard.store.away["keep staged files"] = Unavailable("the database is away")
    await yard.post("abc", {name: name for name in files})
    yard.work()
    cart = yard.cart("abc")
    assert cart.failing_since is not None
    yard.store.away.clear()
    seen: list[Any] = []
    yard.store.before["begin to bundle"] = lambda connection: seen.append(tables.find(connection, cart.id))
    yard.pass_time(10)
    assert yard.cart("abc").status is Status.READY
    assert (seen[0].failing_since, seen[0].waiting, seen[0].error) == (None, None, None)


async def test_staged_anew(far, remote):
    """A cart in error that is asked for again tells nothing of before."""
    remote.files["a"] = b"1"
    remote.faults["look", "a"] = [Faulty("nonsense")]
    await far.post("abc", {"a": "a"})
    far.pass_time(60)
    assert far.cart("abc").status is Status.ERROR
    far.store.now(partial(tables.change, before=far.cart("abc"), now=1, waiting='{"what":"retry","since":1}'))
    remote.faults.clear()
    assert (await far.client.ask("POST", "/carts/abc/retry")).status == 202
    assert (await waiting_on(far))["what"] == "slot"
    far.pass_time(10)
    assert far.cart("abc").status is Status.READY
