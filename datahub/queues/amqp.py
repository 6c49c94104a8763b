"""The queue of many hubs: an announcement is a message in the lane's queue on an AMQP broker.

The loop that reconnects is our own: Twisted's `ClientService` breaks when a connection is lost between
TCP's handshake and AMQP's (its state machine has no transition for it), and writes a line for every attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from pika import BasicProperties, DeliveryMode
from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from datahub.kit.aio import Task, gather, sleep
from datahub.queues import Listener
from datahub.queues.broker import HEARTBEAT, Broker, Wire
from datahub.queues.ear import Ear
from datahub.queues.signals import Signals

__all__ = ["AmqpQueue"]

log = Logger()
WINDOW = 256
PREFETCH = 8
COMPLAIN_EVERY = 60.0
# The first attempts follow each other quickly; the jitter keeps the hubs of a cluster from coming back as one.
_delay = backoffPolicy(initialDelay=0.5, maxDelay=30.0, factor=1.6)


class AmqpQueue:
    """Announces and listens through the broker at ``url``, in one durable quorum queue ``prefix.lane`` a lane.

    While the broker is away announcements are dropped: every hub looks by itself each second.
    Raises `StartError` for a ``url`` that is none.
    """

    def __init__(
        self,
        url: str,
        reactor: Any,
        *,
        prefix: str = "datahub",
        endpoint: IStreamClientEndpoint | None = None,
        heartbeat: int = HEARTBEAT,
    ) -> None:
        self._broker = Broker.parse(url)
        self._endpoint = endpoint or self._broker.endpoint(reactor)
        self._clock = reactor
        self._prefix = prefix
        self._heartbeat = heartbeat
        self._ears: dict[str, Ear] = {}
        self._announcer: Announcer | None = None
        self._signals = Signals(f"{prefix}.signals", reactor)
        self._task: Task | None = None
        self._away: str | None = "not connected yet"
        self._stopping = False
        self._failed = 0
        self._complained: float | None = None

    def listen(self, lane: str, listener: Listener) -> None:
        """Call ``listener`` for every announcement of ``lane`` by any hub."""
        self._ears[lane] = Ear(lane, listener, self._clock)

    def start(self) -> None:
        """Begin to connect, and to call the listeners once that is done."""
        self._task = Task("the queue", self._keep_connected())

    def announce(self, lane: str) -> None:
        """Publish that ``lane`` has new work, if the broker is there."""
        if self._announcer is not None:
            self._announcer.announce(lane)

    def hear(self, name: str, listener: Callable[[bytes], None]) -> None:
        """Call ``listener`` with the content of each signal ``name`` of another hub."""
        self._signals.hear(name, listener)

    def signal(self, name: str, content: bytes = b"") -> None:
        """Tell the other hubs, if the broker is there."""
        self._signals.signal(name, content)

    async def stop(self) -> None:
        """Hang up, then wait, within bounds, for the looks under way."""
        self._stopping = True
        if self._task is not None:
            await self._task.stop()
        for ear in self._ears.values():
            await ear.stop()

    async def check(self) -> str | None:
        """Give None while connected, else what is wrong with the broker."""
        return self._away and f"the broker {self._broker.name} is away: {self._away}"

    async def _keep_connected(self) -> None:
        while True:
            try:
                await self._session()
            except CancelledError:
                raise
            except Exception as fault:
                # An endpoint that is cancelled raises whatever failed by that, such as the look-up of a name.
                if self._stopping:
                    return
                self._complain(str(fault) or type(fault).__name__)
            self._failed += 1
            await sleep(_delay(self._failed), self._clock)

    async def _session(self) -> None:
        wire = await Wire.connect(self._broker, self._endpoint, self._clock, self._heartbeat)
        try:
            await wire.opened()
            await gather(wire.silence(), self._converse(wire))
        finally:
            self._announcer = None
            self._away = self._away or "the connection was lost"
            await wire.hang_up()

    async def _converse(self, wire: Wire) -> None:
        publishing = await wire.channel()
        await publishing.confirm_delivery()
        lanes = [(ear, await self._open(wire, ear.lane)) for ear in self._ears.values()]
        signalling = await wire.channel()
        self._announcer = Announcer(publishing, self._queue)
        self._connected()
        await gather(
            _until_closed(publishing),
            self._signals.attend(signalling),
            *(self._attend(channel, ear) for ear, channel in lanes),
        )

    async def _open(self, wire: Wire, lane: str) -> Any:
        channel = await wire.channel()
        await channel.basic_qos(prefetch_count=PREFETCH)
        await channel.queue_declare(queue=self._queue(lane), durable=True, arguments={"x-queue-type": "quorum"})
        return channel

    async def _attend(self, channel: Any, ear: Ear) -> NoReturn:
        while True:
            # Nobody called here while we were away or full.
            room = await ear.look()
            if room:
                room = await self._consume(channel, ear)
            await (ear.pause() if room is None else ear.room())

    async def _consume(self, channel: Any, ear: Ear) -> bool | None:
        """Look at each message until the listener is full (False) or fails (None); the rest is left to other hubs."""
        messages, tag = await channel.basic_consume(self._queue(ear.lane))
        room: bool | None = True
        while room:
            tags = [(await messages.get()).method.delivery_tag]
            while messages.pending:
                tags.append((await messages.get()).method.delivery_tag)
            room = await ear.look()
            if room:
                # Room is left, so nothing was: one look has served all the messages that came before it.
                channel.basic_ack(tags[-1], multiple=True)
            elif room is False:
                channel.basic_ack(tags[0])
        await channel.basic_cancel(tag)
        channel.basic_nack(0, multiple=True, requeue=True)
        return room

    def _queue(self, lane: str) -> str:
        return f"{self._prefix}.{lane}"

    def _connected(self) -> None:
        log.info("connected to the broker {name}", name=self._broker.name)
        self._away, self._failed = None, 0

    def _complain(self, reason: str) -> None:
        self._away = reason
        now = self._clock.seconds()
        if self._complained is None or abs(now - self._complained) >= COMPLAIN_EVERY:
            self._complained = now
            log.warn(
                "the broker {name} is away ({reason}): work starts up to a second later until it is back",
                name=self._broker.name,
                reason=reason,
            )


class Announcer:
    """Publishes to one channel, at most 256 messages unconfirmed; what is announced beyond waits as one a lane."""

    def __init__(self, channel: Any, queue: Callable[[str], str]) -> None:
        self._channel = channel
        self._queue = queue
        self._unconfirmed = 0
        self._waiting: dict[str, None] = {}

    def announce(self, lane: str) -> None:
        """Publish now or when the window has room; a message that fails is dropped, being only a hint."""
        if self._unconfirmed < WINDOW:
            self._publish(lane)
        else:
            self._waiting[lane] = None

    def _publish(self, lane: str) -> None:
        self._unconfirmed += 1
        published = maybeDeferred(
            self._channel.basic_publish,
            exchange="",
            routing_key=self._queue(lane),
            body=b"",
            properties=BasicProperties(delivery_mode=DeliveryMode.Persistent),
        )
        published.addBoth(self._confirmed)

    def _confirmed(self, _: object) -> None:
        self._unconfirmed -= 1
        if self._waiting:
            lane = next(iter(self._waiting))
            del self._waiting[lane]
            self._publish(lane)


async def _until_closed(channel: Any) -> NoReturn:
    """Raise the reason when ``channel`` is closed, which it also is when its connection ends."""
    reason = await channel.on_closed
    raise reason or ConnectionError("the channel was closed")
