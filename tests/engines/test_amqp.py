"""datahub.queues.amqp on a real broker: what breaks, and that it mends itself."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import pytest_twisted
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs, formatEvent

from datahub.kit.aio import sleep
from datahub.queues.amqp import WINDOW, AmqpQueue
from datahub.queues.broker import Broker
from tests.brokers import AmqpCluster, Front, Proxy, SlotListener
from tests.waiting import until

pytestmark = pytest.mark.engine
LONG = 0.3


@pytest_twisted.async_yield_fixture
async def cluster(broker_url, reactor):
    """Give hubs that share a name of their own on the broker."""
    cluster = AmqpCluster(broker_url, reactor)
    yield cluster
    await cluster.close()


@pytest_twisted.async_yield_fixture
async def proxy(broker_url, reactor):
    """Give a way to the broker that the test can cut."""
    proxy = Proxy(broker_url, reactor)
    yield proxy
    await proxy.close()


async def quiet(listener, reactor):
    await sleep(LONG, reactor)
    listener.looks = 0


async def test_a_full_hub_leaves_the_rest_to_another(cluster, reactor):
    """What a full hub had prefetched goes back to the broker, and the next hub gets it."""
    full, other = SlotListener(), SlotListener()
    queue = await cluster.hub(lane=full)
    await quiet(full, reactor)
    full.slots = 1
    for _ in range(5):
        queue.announce("lane")
    await until(lambda: full.looks == 1, "the look that fills the first hub")
    await sleep(LONG, reactor)
    assert await cluster.depth("lane") == 4
    await cluster.hub(lane=other)
    await until(lambda: other.looks >= 2, "the looks of the second hub")
    await sleep(LONG, reactor)
    assert await cluster.depth("lane") == 0
    assert full.looks == 1


async def test_a_hub_that_only_announces_reaches_another(cluster, reactor):
    """A hub with no workers publishes to the lanes of those that have."""
    listener = SlotListener()
    await cluster.hub(lane=listener)
    await quiet(listener, reactor)
    front = await cluster.hub()
    front.announce("lane")
    await until(lambda: listener.looks == 1, "a look at the other hub")


async def test_announcements_outlive_a_hub(cluster, reactor):
    """Messages that nobody has taken are there for the hub that comes later; the queue is a durable quorum queue."""
    first = await cluster.hub(lane=SlotListener(1))
    for _ in range(3):
        first.announce("lane")
    await sleep(LONG, reactor)
    await first.stop()
    assert await cluster.depth("lane") == 3
    late = SlotListener()
    await cluster.hub(lane=late)
    await until(lambda: late.looks >= 2, "the looks at what had been left")


async def test_a_message_is_held_until_the_look_has_returned(cluster, reactor):
    """A hub that dies while it claims leaves its message to another."""

    class Dying(SlotListener):
        async def look(self):
            self.looks += 1
            if self.looks > 1:
                await sleep(LONG * 3, reactor)
            return True

    dying = Dying()
    proxy = Proxy(cluster.url, reactor)
    queue = await cluster.hub(url=proxy.url, lane=dying)
    await until(lambda: dying.looks == 1, "the look on connecting")
    await sleep(LONG, reactor)
    queue.announce("lane")
    await until(lambda: dying.looks == 2, "the look that hangs")
    proxy.cut()
    await proxy.close()
    other = SlotListener()
    await cluster.hub(lane=other)
    await until(lambda: other.looks == 2, "the message's redelivery")


async def test_a_failed_look_gives_the_message_back(cluster, reactor):
    """A hub whose database is away does not eat the others' announcements."""

    class Failing(SlotListener):
        async def look(self):
            self.looks += 1
            raise RuntimeError("no database")

    class Starting(Failing):
        async def look(self):
            if self.looks == 0:
                self.looks += 1
                return True
            return await super().look()

    listener = Starting()
    queue = await cluster.hub(lane=listener)
    await sleep(LONG, reactor)
    with capturedLogs():
        queue.announce("lane")
        await until(lambda: listener.looks >= 2, "the failing look")
        await sleep(LONG, reactor)
        assert await cluster.depth("lane") == 1
        await queue.stop()


async def test_a_cut_connection_is_made_again(cluster, proxy, reactor):
    """After the broker is gone and back the hub announces and listens as before; meanwhile it says why not."""
    listener = SlotListener()
    queue = await cluster.hub(url=proxy.url, lane=listener)
    await quiet(listener, reactor)
    with capturedLogs() as events:
        proxy.cut()
        await until(lambda: queue._away, "the notice that the broker is away")
        assert "is away" in await queue.check()
        queue.announce("lane")
        await cluster.connected(queue)
    assert [e["log_level"] for e in events if e["log_level"] > LogLevel.info] == [LogLevel.warn]
    assert await queue.check() is None
    await quiet(listener, reactor)
    queue.announce("lane")
    await until(lambda: listener.looks == 1, "a look after the reconnection")


async def test_a_hub_looks_by_itself_when_it_is_connected_again(cluster, proxy, reactor):
    """What was announced while it was away is found without a message."""
    listener = SlotListener()
    queue = await cluster.hub(url=proxy.url, lane=listener)
    await quiet(listener, reactor)
    proxy.cut()
    await until(lambda: listener.looks, "the look on connecting again")
    assert await queue.check() is None


async def rabbitmqctl(*command):
    """Run the broker's own command, away from the reactor."""
    full = ["rabbitmqctl", "--quiet", *command]
    done = await deferToThread(subprocess.run, full, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("rabbitmqctl") is None, reason="the broker is not this machine's")
async def test_a_connection_that_the_broker_closes_is_made_again(broker_url, reactor):
    """An operator's close of all connections is told by his reason, and mended."""
    vhost = f"datahub-test-{os.getpid()}"
    await rabbitmqctl("add_vhost", vhost)
    try:
        user = Broker.parse(broker_url).user
        await rabbitmqctl("set_permissions", "-p", vhost, user, ".*", ".*", ".*")
        cluster = AmqpCluster(broker_url.rpartition("/")[0] + f"/{vhost}", reactor)
        listener = SlotListener()
        queue = await cluster.hub(lane=listener)
        await quiet(listener, reactor)
        with capturedLogs() as events:
            await rabbitmqctl("close_all_connections", "--vhost", vhost, "maintenance")
            await until(lambda: any("maintenance" in formatEvent(event) for event in events), "the broker's reason")
            await cluster.connected(queue)
        await quiet(listener, reactor)
        queue.announce("lane")
        await until(lambda: listener.looks == 1, "a look after the reconnection")
        await cluster.close()
    finally:
        await rabbitmqctl("delete_vhost", vhost)


async def test_a_deleted_queue_is_declared_again(cluster, reactor):
    """When the lane's queue is deleted under it the hub declares it anew and goes on."""
    listener = SlotListener()
    queue = await cluster.hub(lane=listener)
    await quiet(listener, reactor)

    async def delete(channel):
        await channel.queue_delete(queue=f"{cluster.prefix}.lane")

    await cluster.by_hand(delete)
    await until(lambda: listener.looks, "the look on connecting again")
    await cluster.connected(queue)
    await quiet(listener, reactor)
    queue.announce("lane")
    await until(lambda: listener.looks == 1, "a look at the new queue")


async def test_a_silent_broker_is_dropped(cluster, proxy, reactor):
    """A peer that reads and writes no more is noticed by its missing heartbeats; the hub comes back by itself."""
    listener = SlotListener()
    queue = cluster.make(proxy.url, heartbeat=1, lane=listener)
    queue.start()
    await cluster.connected(queue)
    await quiet(listener, reactor)
    proxy.hang()
    # Data that can't be sent is what makes a polite close wait for ever.
    for _ in range(WINDOW):
        queue.announce("lane")
    await until(lambda: "silent" in (queue._away or ""), "the watchdog")
    proxy.resume()
    await cluster.connected(queue)
    await until(lambda: listener.looks, "a look after the reconnection")


async def test_an_idle_connection_lives_on_heartbeats(cluster, proxy, reactor):
    """A connection with nothing to carry is not taken for a dead one."""
    queue = cluster.make(proxy.url, heartbeat=1, lane=SlotListener())
    queue.start()
    await cluster.connected(queue)
    await sleep(5, reactor)
    assert await queue.check() is None
    assert proxy.accepted == 1


async def test_a_stop_is_bounded_when_the_broker_hangs(cluster, proxy, reactor):
    """A broker that does not answer the good-bye is not waited for."""
    queue = await cluster.hub(url=proxy.url, lane=SlotListener())
    proxy.hang()
    before = reactor.seconds()
    await queue.stop()
    assert reactor.seconds() - before < 20


async def test_a_peer_that_never_shakes_hands_is_left(cluster, proxy, reactor, monkeypatch):
    """A port that takes connections and says nothing is as good as none."""
    monkeypatch.setattr("datahub.queues.broker.HANDSHAKE", 0.2)
    proxy.hang()
    queue = await cluster.hub(url=proxy.url, connected=False, lane=SlotListener())
    await until(lambda: "handshake" in str(queue._away), "the end of the wait for a handshake")
    proxy.resume()
    await cluster.connected(queue)


async def test_a_peer_that_speaks_nonsense_is_left(cluster, reactor):
    """What is no AMQP is no broker, and no traceback either."""

    class Nonsense(Protocol):
        def connectionMade(self):
            assert self.transport is not None
            self.transport.write(b"SSH-2.0-OpenSSH_9.2\r\n" * 50)

    port = reactor.listenTCP(0, Factory.forProtocol(Nonsense), interface="127.0.0.1")
    with capturedLogs() as events:
        queue = AmqpQueue(f"amqp://127.0.0.1:{port.getHost().port}/", reactor)
        queue.start()
        await until(lambda: queue._away != "not connected yet", "the notice that this is no broker")
        await queue.stop()
    await port.stopListening()
    assert not [event for event in events if "log_failure" in event]


async def test_a_broker_that_is_away_is_one_line_and_no_password(reactor, monkeypatch):
    """The hub starts without a broker, says so once, with the address and the reason and nothing secret."""
    monkeypatch.setattr("datahub.queues.amqp._delay", lambda attempt: 0.01)
    with capturedLogs() as events:
        queue = AmqpQueue("amqp://alice:s3cr3t@127.0.0.1:1/", reactor)
        queue.listen("lane", SlotListener())
        queue.start()
        await until(lambda: queue._failed > 5, "some attempts")
        queue.announce("lane")
        complaint = await queue.check()
        await queue.stop()
    lines = [formatEvent(event) for event in events if event["log_level"] >= LogLevel.warn]
    assert len(lines) == 1
    assert "amqp://127.0.0.1:1" in lines[0]
    assert "refused" in lines[0]
    assert complaint is not None
    assert "refused" in complaint
    assert "s3cr3t" not in str(events) + complaint + repr(queue._broker) + repr(queue)


async def test_a_wrong_password_is_told_without_the_password(cluster, reactor):
    """Credentials that the broker refuses are a reason that names the refusal, and the hub goes on trying."""
    wrong = cluster.url.replace("guest:guest", "guest:s3cr3t")
    with capturedLogs() as events:
        queue = await cluster.hub(connected=False, url=wrong, lane=SlotListener())
        await until(lambda: "ACCESS_REFUSED" in str(queue._away), "the broker's refusal")
        await queue.stop()
    assert "s3cr3t" not in str([formatEvent(event) for event in events]) + str(queue._away)


async def test_tls_with_a_certificate_that_nobody_trusts_is_refused(broker_url, reactor):
    """``amqps`` speaks to no broker whose certificate is not good for its name; the reason says so."""
    certificate = self_signed()
    port = tls_port(reactor, broker_url, certificate)
    queue = AmqpQueue(f"amqps://localhost:{port.getHost().port}/", reactor)
    queue.start()
    await until(lambda: "certificate verify failed" in (queue._away or ""), "the refusal of the certificate")
    await queue.stop()
    await port.stopListening()


async def test_tls_with_a_trusted_certificate_works(cluster, reactor):
    """Through TLS the queue does what it does without."""
    certificate = self_signed()
    port = tls_port(reactor, cluster.url, certificate)
    number = port.getHost().port
    trusted = optionsForClientTLS("localhost", trustRoot=Certificate.loadPEM(certificate.dumpPEM()))
    endpoint = wrapClientTLS(trusted, HostnameEndpoint(reactor, "127.0.0.1", number))
    listener = SlotListener()
    queue = cluster.make(f"amqps://guest:guest@localhost:{number}/", endpoint=endpoint, lane=listener)
    queue.start()
    await cluster.connected(queue)
    await quiet(listener, reactor)
    queue.announce("lane")
    await until(lambda: listener.looks == 1, "a look through TLS")
    await queue.stop()
    await port.stopListening()


def self_signed():
    from tests.certificates import self_signed_pem

    return PrivateCertificate.loadPEM(self_signed_pem("localhost"))


def tls_port(reactor, broker_url, certificate):
    proxy = Proxy.__new__(Proxy)
    proxy._pairs, proxy.accepted, proxy.hanging = [], 0, False
    broker = Broker.parse(broker_url)
    proxy._behind = HostnameEndpoint(reactor, broker.host, broker.port)
    return reactor.listenSSL(0, Factory.forProtocol(lambda: Front(proxy)), certificate.options(), interface="127.0.0.1")


async def test_signals_reach_the_other_hubs_alone(cluster, reactor):
    """Soon, many as one with the last content; not the hub itself; and again after the broker was away."""
    heard: list[tuple[int, bytes]] = []
    proxy = Proxy(cluster.url, reactor)
    queues = [cluster.make(proxy.url) for _ in range(3)]
    for number, queue in enumerate(queues):
        queue.hear("changed", lambda content, number=number: heard.append((number, content)))
        queue.hear("broken", lambda content: 1 / 0)
        queue.signal("changed", b"before it is connected: lost")
        queue.start()
    for round_ in range(2):
        await until(lambda: all(queue._signals._channel for queue in queues), "signals of all hubs")
        heard.clear()
        for number in range(100):
            queues[0].signal("changed", b"%d" % number)
        await until(lambda: len(heard) >= 2, "the signal at both")
        queues[1].signal("unknown", b"")
        assert sorted(heard) == [(1, b"99"), (2, b"99")]
        if round_ == 0:
            proxy.cut()
            await until(lambda: not any(queue._signals._channel for queue in queues), "the loss")
    with capturedLogs() as events:
        queues[0].signal("broken", b"")
        await until(lambda: len([e for e in events if "can't be used" in e["log_format"]]) == 2, "both complaints")
    for queue in queues:
        await queue.stop()
    await proxy.close()
