"""Masters and agents that do not do as they should: each has its answer, soon, and nothing internal is told."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.web.client import ResponseNeverReceived

from datahub.kit.aio import sleep
from tests.certificates import self_signed_pem
from tests.fakes import mesos_faults as faults
from tests.fakes.mesos import Sending
from tests.fakes.mesos_states import AGENT, directory
from tests.sandboxes.house import QUICK, Body, House
from tests.sandboxes.test_routes import APP, LINES, one_task
from tests.waiting import until

SECRET = ("hub", "s3cret-word")


def opened(make: Any, **settings: Any) -> House:
    """A hub before one task, with credentials that all peers want."""
    fake = one_task()
    master = fake.add_master(credentials=SECRET)
    assert fake.leader is master
    fake.agents[AGENT].credentials = SECRET
    house: House = make(fake, **{"credentials": SECRET, "patience": QUICK, **settings})
    house.put(fake.agents[AGENT], directory(APP, "c1"), {"stdout": LINES})
    return house


def check_nothing_internal(text: str) -> None:
    """No address, port, path or secret."""
    for word in ("127.0.0.1", "http:", "/var/lib", "s3cret", "internal", "Twisted", "Traceback", "<html"):
        assert word not in text, text


MASTER = [
    (faults.hang, 504, "did not answer in time"),
    (faults.status(401), 502, "refuses the hub's credentials (401)"),
    (faults.status(403), 502, "(403)"),
    (faults.status(503, "No leader elected"), 502, "knows no leader (503)"),
    (faults.status(500, "at http://internal:1"), 502, "answered 500"),
    (faults.status(404), 502, "no state at the path"),
    (faults.html, 502, "it is not JSON"),
    (faults.redirect("http://internal.example/"), 502, "answered 302"),
    (faults.cut(10_000, b'{"version":'), 502, "broken off"),
    (faults.stall(10_000, b'{"version":'), 504, "did not send its state in time"),
    (faults.raw(b"220 ftp.internal ready\r\n", close=True), 502, "not HTTP"),
    (faults.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1, 2, 3]", close=True), 502, "not the JSON of a state"),
]


@pytest.mark.parametrize(("fault", "status", "text"), MASTER)
async def test_master(make: Any, fault: Callable[[Any], Any], status: int, text: str) -> None:
    """A master that misbehaves is 502, one that says nothing 504."""
    house = opened(make)
    house.mesos._decoder._patience = 2.0
    house.fake.masters[0].misbehaving |= {"tasks": fault, "state": fault}
    reply = await house.fetch("server", filename="stdout")
    assert (reply.status, text in reply.text) == (status, True), reply.text
    assert "the Mesos master" in reply.text
    check_nothing_internal(reply.text)


AGENTS = [
    (faults.hang, 504, "did not answer in time"),
    (faults.status(401), 502, "refuses the hub's credentials (401)"),
    (faults.status(403, "403 Forbidden."), 502, "does not let the hub read this sandbox (403)"),
    (faults.status(503, "Agent has not finished recovery"), 502, "is not ready"),
    (faults.status(500, "500 Internal Server Error."), 502, "answered 500"),
    (faults.redirect("http://internal.example/"), 502, "answered 302"),
    (faults.raw(b"220 ftp.internal ready\r\n", close=True), 502, "not HTTP"),
]


@pytest.mark.parametrize("endpoint", ["state", "download", "read"])
@pytest.mark.parametrize(("fault", "status", "text"), AGENTS)
async def test_agent(make: Any, endpoint: str, fault: Callable[[Any], Any], status: int, text: str) -> None:
    """An agent that misbehaves, at any of its endpoints, is 502 or 504 and named by its id."""
    house = opened(make)
    house.fake.agents[AGENT].misbehaving[endpoint] = fault
    path = house.path(APP, filename="stdout", **({"tail": 3} if endpoint == "read" else {}))
    reply = await house.fetch(path)
    assert (reply.status, text in reply.text) == (status, True), reply.text
    assert f"Mesos agent {AGENT}" in reply.text
    check_nothing_internal(reply.text)


@pytest.mark.parametrize("endpoint", ["state", "read", "browse"])
@pytest.mark.parametrize(
    "fault", [faults.html, faults.cut(500, b"{"), faults.lie(1, b'{"a":'), faults.gzipped(b"\x1f")]
)
async def test_agent_whose_json_is_none(make: Any, endpoint: str, fault: Callable[[Any], Any]) -> None:
    """What is not the JSON of Mesos is 502."""
    house = opened(make)
    house.fake.agents[AGENT].misbehaving[endpoint] = fault
    if endpoint == "browse":
        reply = await house.fetch(APP, headers={"Accept": "application/json"})
    else:
        reply = await house.fetch(APP, filename="stdout", tail=3)
    assert reply.status == 502
    check_nothing_internal(reply.text)


@pytest.mark.parametrize(
    "fault",
    [faults.cut(5000, b"x" * 100), faults.stall(5000, b"x" * 100), faults.without_length(b"x" * 100)],
)
async def test_download_that_ends_early(make: Any, fault: Callable[[Any], Any], pem: Path | None) -> None:
    """A transfer that the agent breaks off, or lets hang, is broken off to the caller, never ended as if whole."""
    house = opened(make, pem=pem)
    house.fake.agents[AGENT].misbehaving["download"] = fault
    try:
        reply = await house.fetch(APP, filename="stdout")
    except ResponseNeverReceived:
        return  # The break overtook the bytes.
    assert (reply.status, reply.whole, len(reply.body) <= 100) == (200, False, True)


async def test_download_of_more_than_was_said(make: Any) -> None:
    """The length that was told holds."""
    house = opened(make)
    house.fake.agents[AGENT].misbehaving["download"] = faults.lie(10, b"0123456789and more")
    reply = await house.fetch(APP, filename="stdout")
    assert (reply.body, reply.whole) == (b"0123456789", True)


async def test_download_without_a_length_is_limited(make: Any) -> None:
    """No agent goes over the limit by not telling."""
    house = opened(make, limit=50)
    house.fake.agents[AGENT].misbehaving["download"] = faults.without_length(b"x" * 100)
    reply = await house.fetch(APP, filename="stdout")
    assert (reply.status, "sends more than is allowed" in reply.text) == (502, True)


async def test_compressed_by_a_proxy(make: Any) -> None:
    """Bytes that are compressed go out as they are, and are called so."""
    house = opened(make)
    data = gzip.compress(LINES)
    house.fake.agents[AGENT].misbehaving["download"] = faults.gzipped(data)
    reply = await house.fetch(APP, filename="stdout")
    assert (reply.body, reply.headers["content-encoding"]) == (data, "gzip")


async def test_wrong_password(make: Any) -> None:
    """Mesos says 401, the hub 502: it is not the caller whose password is wrong."""
    house = opened(make, credentials=("hub", "wrong"))
    reply = await house.fetch(APP, filename="stdout")
    assert (reply.status, "www-authenticate" in reply.headers) == (502, False)
    assert reply.text == "the Mesos master refuses the hub's credentials (401)"


async def test_agent_that_may_not_be_read(make: Any) -> None:
    """A sandbox that is refused by the agent's rules."""
    house = opened(make)
    house.fake.agents[AGENT].files.denied.add(directory(APP, "c1"))
    assert (await house.fetch(APP, filename="stdout")).status == 502
    assert (await house.fetch(APP, headers={"Accept": "application/json"})).status == 502


async def test_agent_that_is_down(make: Any) -> None:
    """Nothing listens there."""
    house = opened(make)
    await house.fake.agents[AGENT].close()
    reply = await house.fetch(APP, filename="stdout")
    assert (reply.status, reply.text) == (502, f"Mesos agent {AGENT} refuses connections")


async def test_agent_known_by_its_address_alone(make: Any) -> None:
    """A host name that is known to the cluster alone is no obstacle: the pid has the address."""
    house = opened(make)
    slave = house.fake.state["slaves"][0]
    slave["hostname"] = "agent.invalid"
    house.fake.changed()
    assert (await house.fetch(APP, filename="stdout")).body == LINES


async def test_host_name_that_is_none(make: Any) -> None:
    """What an agent calls itself is not put into a URL unseen."""
    house = opened(make)
    house.fake.state["slaves"][0] |= {"hostname": "evil.example/x?", "pid": "slave(1)@evil/:80"}
    house.fake.changed()
    assert (await house.fetch(APP, filename="stdout")).status == 410


def three(make: Any, **settings: Any) -> House:
    """Three masters with credentials; the second leads."""
    fake = one_task()
    for _ in range(3):
        fake.add_master(credentials=SECRET)
    fake.leader = fake.masters[1]
    house: House = make(fake, credentials=SECRET, **settings)
    house.put(fake.agents[AGENT], directory(APP, "c1"), {"stdout": LINES})
    return house


async def test_leader_is_followed(make: Any) -> None:
    """A master that does not lead names the leader, and the credentials are sent there anew."""
    house = three(make)
    assert (await house.fetch(APP, filename="stdout")).body == LINES
    leader = house.fake.masters[1]
    assert leader.asked[-1].authorization is not None
    before = len(house.fake.masters[0].asked)
    assert (await house.fetch("server", filename="stdout")).body == LINES
    assert len(house.fake.masters[0].asked) == before


async def test_leader_that_is_not_configured(make: Any) -> None:
    """One that a configured master names is a leader all the same, and gets the credentials."""
    house = three(make)
    only = house.fake.masters[0].number
    other = House(house.reactor, house.fake, house.root, masters=[f"http://127.0.0.1:{only}"], credentials=SECRET)
    try:
        other.open()
        assert (await other.fetch(APP, filename="stdout")).body == LINES
    finally:
        await other.port.stopListening()
        await other.wire.stop()


async def test_new_leader(make: Any) -> None:
    """When the leader goes, the next one is found at once."""
    house = three(make, ttl=0.0)
    assert (await house.fetch(APP, filename="stdout")).body == LINES
    house.fake.leader = house.fake.masters[2]
    await house.fake.masters[1].close()
    lost = faults.raw(b"", close=True)
    house.fake.masters[1].misbehaving |= dict.fromkeys(("state", "tasks", "slaves", "redirect"), lost)
    assert (await house.fetch(APP, filename="stdout")).body == LINES


async def test_first_master_hangs(make: Any) -> None:
    """One that hangs costs its time-out once, and keeps nobody from the leader."""
    house = three(make, patience=QUICK)
    house.fake.masters[0].misbehaving |= dict.fromkeys(("state", "tasks", "slaves", "redirect"), faults.hang)
    assert (await house.fetch(APP, filename="stdout")).body == LINES


async def test_no_leader(make: Any) -> None:
    """When none leads that is said, of each master."""
    house = three(make)
    house.fake.leader = None
    reply = await house.fetch(APP, filename="stdout")
    assert reply.status == 502
    assert reply.text.count("knows no leader (503)") == 3
    check_nothing_internal(reply.text)


async def test_credentials_go_to_nobody_else(make: Any) -> None:
    """A leader who sends us on, or an agent who does, is not followed; a leader is named by the configured alone."""
    house = opened(make, ttl=0.0)
    thief = one_task()
    stranger = thief.add_master()
    stranger.listen(house.reactor)
    try:
        url = f"http://127.0.0.1:{stranger.number}/state"
        house.fake.agents[AGENT].misbehaving["download"] = faults.redirect(url)
        assert (await house.fetch(APP, filename="stdout")).status == 502
        # The configured master may name a leader; that one may not name another.
        leader = one_task().add_master()
        leader.listen(house.reactor)
        named = [faults.redirect(f"//127.0.0.1:{each.number}", 307) for each in (leader, stranger)]
        house.fake.masters[0].misbehaving |= {"state": named[0], "tasks": named[0], "redirect": named[0]}
        leader.misbehaving |= {"state": named[1], "tasks": named[1], "redirect": named[1]}
        assert (await house.fetch("server", filename="stdout")).status == 502
        assert leader.asked[0].authorization is not None
        assert stranger.asked == []
        await leader.close()
    finally:
        await stranger.close()


def large(make: Any, size: int, pem: Path | None) -> House:
    """A hub before a large file, whose callers speak TLS if there is a certificate."""
    house: House = opened(make, pem=pem)
    data = b"".join(number.to_bytes(4, "big") * 16 for number in range(size // 64))
    house.put(house.fake.agents[AGENT], directory(APP, "c1"), {"large": data})
    return house


@pytest.fixture(params=["plain", "TLS"])
def pem(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Give a file with key and certificate, or None: callers come by TLS, or without."""
    if request.param == "plain":
        return None
    path = tmp_path / "hub.pem"
    path.write_bytes(self_signed_pem("localhost"))
    return path


async def test_caller_who_leaves(make: Any, pem: Path | None) -> None:
    """The agent's connection is closed at once when the caller is gone."""
    house = large(make, 32 * 2**20, pem)
    agent = house.fake.agents[AGENT]
    response = await house.begin(house.path(APP, filename="large"))
    body = Body()
    response.deliverBody(body)
    await until(lambda: len(body.data) > 100_000, "the first bytes", 60)
    before = agent.left
    body.transport.stopProducing()  # type: ignore[union-attr]
    await body.done
    await until(lambda: agent.left == before + 1, "the agent hears of it", 20)


async def test_slow_caller_holds_the_agent_back(make: Any, pem: Path | None) -> None:
    """Nothing is read from the agent that nobody takes; a pause of the caller is no fault of the agent."""
    size = 32 * 2**20
    house = large(make, size, pem)
    response = await house.begin(house.path(APP, filename="large"))
    body = Body()
    sent = Sending.sent
    response.deliverBody(body)
    body.transport.pauseProducing()  # type: ignore[union-attr]
    # Longer than an agent may be silent.
    await sleep(2.5 * house.patience.stall, house.reactor)
    assert Sending.sent - sent < size / 2
    body.transport.resumeProducing()  # type: ignore[union-attr]
    await body.done
    assert (len(body.data), body.whole) == (size, True)
    assert all(body.data[each : each + 4] == (each // 64).to_bytes(4, "big") for each in range(0, size, 65_536))


async def test_no_master_configured(make: Any) -> None:
    """A hub without a Mesos says so."""
    house = opened(make)
    house.mesos._masters._configured = ()
    reply = await house.fetch(APP, filename="stdout")
    assert (reply.status, "[sandbox] masters" in reply.text) == (503, True)


@pytest.mark.parametrize(("verify", "known", "status"), [(True, True, 200), (True, False, 502), (False, False, 200)])
async def test_tls(make: Any, verify: bool, known: bool, status: int, tmp_path: Any) -> None:
    """Masters and agents are spoken to by TLS, and believed only with a certificate that is known, unless told so."""
    pem = self_signed_pem("localhost")
    (tmp_path / "hub.pem").write_bytes(pem)
    context: Any = DefaultOpenSSLContextFactory(str(tmp_path / "hub.pem"), str(tmp_path / "hub.pem"))
    fake = one_task()
    fake.host = "localhost"
    settings = {"verify": verify, "ca": pem[pem.index(b"-----BEGIN CERT") :] if known else None}
    house: House = make(fake, context=context, base="https://localhost", **settings)
    house.put(fake.agents[AGENT], directory(APP, "c1"), {"stdout": LINES})
    reply = await house.fetch(APP, filename="stdout")
    assert reply.status == status, reply.text
    assert reply.body == LINES if status == 200 else "TLS" in reply.text
    if status == 200:
        assert (await house.fetch(APP, filename="stdout", tail=1)).body == b"line 1000\n"
