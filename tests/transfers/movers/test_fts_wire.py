"""How the hub asks an FTS server: how much at once, with which credentials, and never anybody else."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.logger import capturedLogs, formatEvent

from datahub.errors import PassingFault
from datahub.kit.aio import gather, sleep
from datahub.transfers.movers import fts_wire, proxies
from datahub.transfers.movers.proxies import Papers
from tests.gridftp import Authority
from tests.transfers.movers.fts_place import Place, client, closed, job, opened


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give who signs all certificates here."""
    return Authority(tmp_path_factory.mktemp("fts"))


@pytest_twisted.async_yield_fixture()
async def place(authority, reactor):
    """Give a server that has nothing yet."""
    place = opened(authority, reactor)
    yield place
    await closed(place)


def renewals(place: Place) -> list[int]:
    """How often each delegation was renewed."""
    return [each.count for each in place.fake.delegations.values()]


async def hand_over(place: Place, sid: str) -> str:
    """Do what is done for a transfer."""
    await place.fts.id_of(sid)
    return await place.fts.submit(job(sid))


async def test_many_at_once(place):
    """Who the hub is is asked once, a proxy delegated once; a few connections do it all, and serve the next as well."""
    place.fake.manner = "slow"
    await gather(*(hand_over(place, f"s{number}") for number in range(60)))
    await gather(*(hand_over(place, f"t{number}") for number in range(20)))
    asked = Counter(path for _, path in place.fake.asked)
    assert (asked["/whoami"], asked["/jobs"], renewals(place)) == (1, 80, [1])
    assert place.fake.most <= fts_wire.CONNECTIONS
    assert len(place.fake.peers) <= fts_wire.CONNECTIONS


async def test_a_proxy_that_the_server_has_lost(place):
    """All submissions under way are refused; one renews it for all, and each is made again."""
    await place.fts.delegate()
    place.fake.delegations.clear()
    await gather(*(place.fts.submit(job(f"s{number}")) for number in range(20)))
    assert (renewals(place), len(place.fake.jobs)) == ([1], 20)


async def test_a_delegation_that_fails(place):
    """All who wait for it hear of it, nobody tries it after the other; the next one may succeed."""
    await place.fts.delegate()
    place.fake.delegations.clear()
    place.fts._until = 0.0
    place.fake.asked.clear()
    place.fake.manner = "broken"

    async def attempt() -> str:
        with pytest.raises(PassingFault, match="answered 503") as caught:
            await place.fts.delegate()
        return str(caught.value)

    assert len(await gather(*(attempt() for _ in range(10)))) == 10
    assert len(place.fake.asked) == 1
    place.fake.manner = "waits"
    await place.fts.delegate()
    assert renewals(place) == [1]


async def test_credentials_that_last_no_two_hours(place, authority, reactor):
    """What they can give is delegated once: another one would last no longer."""
    fts = client(authority, place.port, Papers(proxy=authority.proxy("robot", seconds=5400, name="short")), reactor)
    for number in range(3):
        await fts.submit(job(f"s{number}"))
        await fts.keep_delegated()
    await fts.stop()
    assert (renewals(place), len(place.fake.jobs)) == ([1], 3)


async def test_credentials_that_last_no_hour(place, authority, reactor):
    """Nothing is submitted, and it is told once; jobs that are there can be asked about."""
    one = await place.fts.submit(job())
    name = authority.proxy("hub", seconds=3000, name="shorter")
    fts = client(authority, place.port, Papers(proxy=name), reactor)
    with pytest.raises(PassingFault, match=r"takes no job in the last hour of .*shorter.pem: renew them"):
        await fts.submit(job("s2"))
    with capturedLogs() as events:
        for _ in range(2):
            await fts.keep_delegated()
            assert (await fts.look([one]))[0].known
    await fts.stop()
    assert len([each for each in events if "no proxy is delegated to" in formatEvent(each)]) == 1


async def test_nothing_is_delegated_but_jobs_are_seen(place):
    """That the hub is refused a delegation is no reason not to look."""
    one = await place.fts.submit(job())
    place.fts._until = 0.0
    place.fake.delegations.clear()
    place.fake.manner = "banned"
    with pytest.raises(PassingFault, match="403"):
        await place.fts.delegate()
    await place.fts.keep_delegated()
    place.fake.manner = "waits"
    assert (await place.fts.look([one]))[0].known


async def test_an_answer_that_leads_elsewhere(place):
    """Nobody is followed there; where it leads is told."""
    place.fake.manner = "elsewhere"
    told = r"answered 302: it sends the hub to https://elsewhere.example.org:8446/whoami; .* into \[transfers.movers\]"
    with pytest.raises(PassingFault, match=told):
        await place.fts.whoami()
    with pytest.raises(PassingFault, match=told):
        await place.fts.look(["1"])


async def test_a_wait_for_ones_turn(place, monkeypatch):
    """It counts: whoever asks a server that hangs knows after the same time, however many ask."""
    await place.fts.delegate()
    monkeypatch.setattr(fts_wire, "ANSWER", 0.3)
    place.fake.manner = "hang"

    async def attempt() -> None:
        with pytest.raises(PassingFault, match="is silent"):
            await place.fts.look(["1"])

    began = place.fts._wire._reactor.seconds()
    await gather(*(attempt() for _ in range(3 * fts_wire.CONNECTIONS)))
    assert place.fts._wire._reactor.seconds() - began < 0.8
    place.fake.manner = "waits"
    assert not (await place.fts.look(["1"]))[0].known


async def test_the_reactor_reads_no_file(place, authority, reactor, monkeypatch):
    """Certificates, keys and authorities are read in a thread, and keys sign there."""
    seen: set[Any] = set()
    here = threading.current_thread()

    def noted(name: str, call: Any) -> Any:
        def note(*values: Any, **named: Any) -> Any:
            seen.add((name, threading.current_thread() is here))
            return call(*values, **named)

        return note

    certificate, key = authority.issue("robot")
    fts = client(authority, place.port, Papers(certificate, key, ca=authority.folder), reactor)
    for name in ("read_bytes", "stat", "open", "glob"):
        monkeypatch.setattr(Path, name, noted(name, getattr(Path, name)))
    monkeypatch.setattr(fts_wire, "sign", noted("sign", proxies.sign))
    await fts.submit(job())
    monkeypatch.undo()
    await fts.stop()
    assert {name for name, _ in seen} >= {"read_bytes", "stat", "sign"}
    assert not any(in_reactor for _, in_reactor in seen)


async def test_authorities_that_are_replaced(place, authority, reactor, tmp_path, monkeypatch):
    """The next request trusts the new ones, of a file and of a folder, without a restart."""
    monkeypatch.setattr(fts_wire, "FRESH", 0.0)
    other = Authority(tmp_path / "other")
    folder = tmp_path / "trusted"
    folder.mkdir()
    (folder / "old.pem").write_bytes(other.pem.read_bytes())
    (tmp_path / "file.pem").write_bytes(other.pem.read_bytes())
    certificate, key = authority.issue("hub")
    for ca in (folder, tmp_path / "file.pem"):
        fts = client(authority, place.port, Papers(certificate, key, ca=ca), reactor)
        with pytest.raises(PassingFault, match="certificate verify failed"):
            await fts.whoami()
        await sleep(0.02, reactor)
        (folder / "new.pem").write_bytes(authority.pem.read_bytes())
        (tmp_path / "fresh.pem").write_bytes(authority.pem.read_bytes())
        (tmp_path / "fresh.pem").replace(tmp_path / "file.pem")
        assert (await fts.whoami()).delegation_id
        await fts.stop()
        (tmp_path / "file.pem").write_bytes(other.pem.read_bytes())
