"""Queues for tests: a small cluster on the real broker, and a proxy that cuts or hangs its connections."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone

from datahub.kit.aio import start
from datahub.queues.amqp import AmqpQueue
from datahub.queues.broker import Broker, Wire
from tests.waiting import until

__all__ = ["AmqpCluster", "Proxy", "SlotListener"]


class SlotListener:
    """Has ``slots`` places; a look takes one, `free` gives one back."""

    def __init__(self, slots: float = float("inf")) -> None:
        self.slots = slots
        self.looks = 0
        self._rooms: list[Deferred[None]] = []

    async def look(self) -> bool:
        self.looks += 1
        self.slots -= 1
        return self.slots > 0

    async def room(self) -> None:
        if self.slots <= 0:
            freed: Deferred[None] = Deferred()
            self._rooms.append(freed)
            await freed

    def free(self) -> None:
        self.slots += 1
        waiting, self._rooms = self._rooms, []
        for each in waiting:
            if not each.called:
                each.callback(None)


class AmqpCluster:
    """Queues that share a name of their own on the broker at ``url``, and go without a trace."""

    def __init__(self, url: str, reactor: Any) -> None:
        self.url = url
        self.prefix = f"datahub-test-{uuid.uuid4().hex[:8]}"
        self._reactor = reactor
        self._queues: list[AmqpQueue] = []
        self._lanes: set[str] = set()

    async def hub(self, *, connected: bool = True, url: str = "", **listeners: Any) -> AmqpQueue:
        """Start one more hub whose lanes are the names of ``listeners``."""
        queue = self.make(url, **listeners)
        queue.start()
        if connected:
            await self.connected(queue)
        return queue

    def make(self, url: str = "", heartbeat: int = 15, endpoint: Any = None, **listeners: Any) -> AmqpQueue:
        """Build one more hub's queue without starting it."""
        queue = AmqpQueue(url or self.url, self._reactor, prefix=self.prefix, heartbeat=heartbeat, endpoint=endpoint)
        self._queues.append(queue)
        self._lanes |= listeners.keys()
        for lane, listener in listeners.items():
            queue.listen(lane, listener)
        return queue

    async def connected(self, queue: AmqpQueue) -> None:
        """Wait until ``queue`` has its broker."""
        await until(lambda: queue._away is None, "a connection to the broker")

    async def depth(self, lane: str) -> int:
        """Count the messages that wait in the lane's queue for a consumer."""

        async def count(channel: Any) -> int:
            answer = await channel.queue_declare(queue=f"{self.prefix}.{lane}", passive=True)
            return int(answer.method.message_count)

        return int(await self.by_hand(count))

    async def by_hand(self, work: Any) -> Any:
        """Run ``work(channel)`` on a connection of its own."""
        broker = Broker.parse(self.url)
        wire = await Wire.connect(broker, broker.endpoint(self._reactor), self._reactor)
        try:
            await wire.opened()
            return await work(await wire.channel())
        finally:
            await wire.hang_up()

    async def close(self) -> None:
        """Stop all hubs and delete their queues."""
        for queue in self._queues:
            await queue.stop()

        async def delete(channel: Any) -> None:
            for lane in self._lanes:
                await channel.queue_delete(queue=f"{self.prefix}.{lane}")
            await channel.exchange_delete(exchange=f"{self.prefix}.signals")

        await self.by_hand(delete)


class Proxy:
    """Stands between a hub and its broker: `cut` ends the connections, `hang` stops reading and writing."""

    def __init__(self, url: str, reactor: Any) -> None:
        parts = urlsplit(url)
        self._behind = HostnameEndpoint(reactor, parts.hostname or "127.0.0.1", parts.port or 5672)
        self._reactor = reactor
        self._pairs: list[Front] = []
        self.accepted = 0
        self.hanging = False
        self._port = reactor.listenTCP(0, Factory.forProtocol(lambda: Front(self)), interface="127.0.0.1")
        self.port = self._port.getHost().port
        self.url = url.replace(f":{parts.port}/", f":{self.port}/")

    def reach(self, front: Front) -> None:
        """Connect ``front`` to the broker behind."""
        self.accepted += 1
        self._pairs.append(front)
        if not self.hanging:
            connecting = start(_connect(self._behind, front))
            connecting.addErrback(lambda _: front.transport.abortConnection())

    def cut(self) -> None:
        """End every connection, as a broker that is killed."""
        for front in self._pairs:
            front.drop()
        self._pairs = []

    def hang(self) -> None:
        """Let every connection stand and be silent, as a machine that has lost its power."""
        self.hanging = True
        for front in self._pairs:
            front.freeze()

    def resume(self) -> None:
        """Serve new connections again; those that hang stay so."""
        self.hanging = False

    async def close(self) -> None:
        """Stop listening and end what is left."""
        self.cut()
        await self._port.stopListening()


class Front(Protocol):
    """The hub's side of one connection."""

    transport: Any

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._early = b""
        self.back: Back | None = None

    def connectionMade(self) -> None:
        self._proxy.reach(self)

    def dataReceived(self, data: bytes) -> None:
        if self.back is None:
            self._early += data
        else:
            self.back.transport.write(data)

    def joined(self, back: Back) -> None:
        self.back = back
        back.transport.write(self._early)

    def freeze(self) -> None:
        self.transport.stopReading()
        if self.back is not None:
            self.back.transport.stopReading()

    def drop(self) -> None:
        self.transport.abortConnection()

    def connectionLost(self, reason=connectionDone) -> None:
        if self.back is not None:
            self.back.transport.abortConnection()


class Back(Protocol):
    """The broker's side of one connection."""

    transport: Any

    def __init__(self, front: Front) -> None:
        self._front = front

    def dataReceived(self, data: bytes) -> None:
        self._front.transport.write(data)

    def connectionLost(self, reason=connectionDone) -> None:
        self._front.transport.loseConnection()


async def _connect(endpoint: Any, front: Front) -> None:
    front.joined(await endpoint.connect(Factory.forProtocol(lambda: Back(front))))
