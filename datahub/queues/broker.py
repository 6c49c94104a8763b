"""The connection to an AMQP 0-9-1 broker: its address, and a wire that notices a dead peer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from pika import ConnectionParameters, PlainCredentials
from pika.adapters.twisted_connection import TwistedProtocolConnection
from twisted.internet.defer import AlreadyCalledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger
from twisted.python.failure import Failure

from datahub.errors import StartError
from datahub.kit.aio import sleep, within

__all__ = ["Broker", "Wire"]

log = Logger()
HEARTBEAT = 15
CONNECT = 10.0
HANDSHAKE = 10.0
GOODBYE = 2.0
PORTS = {"amqp": 5672, "amqps": 5671}

# pika reports every lost connection as an error with a traceback; what matters of it is in our own lines.
logging.getLogger("pika").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are there; its ``repr`` and `name` hold no password."""

    scheme: str
    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Broker:
        """Read ``amqp[s]://user:password@host:port/vhost``.

        Raises `StartError` that tells what is wrong and what would be right, and no password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as wrong:
            raise StartError(f"queue.url: {wrong}; {_RIGHT}") from None
        if parts.scheme not in PORTS:
            raise StartError(f"queue.url: the scheme {parts.scheme!r} is no broker's; {_RIGHT}")
        if not parts.hostname:
            raise StartError(f"queue.url: it names no host; {_RIGHT}")
        if parts.query or parts.fragment:
            raise StartError(f"queue.url: nothing may follow the virtual host; {_RIGHT}")
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or PORTS[parts.scheme],
            vhost=unquote(parts.path[1:]) or "/",
            user=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
        )

    @property
    def name(self) -> str:
        """What people are told: scheme, host and port."""
        return f"{self.scheme}://{self.host}:{self.port}"

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """Where to connect; with ``amqps`` the broker's certificate must be good for the host's name."""
        plain = HostnameEndpoint(reactor, self.host, self.port, timeout=CONNECT)
        if self.scheme == "amqp":
            return plain
        return wrapClientTLS(optionsForClientTLS(self.host), plain)

    def parameters(self, heartbeat: int) -> Any:
        """What pika sends in the handshake; it connects nowhere by itself."""
        return ConnectionParameters(
            virtual_host=self.vhost,
            credentials=PlainCredentials(self.user, self.password),
            heartbeat=heartbeat,
            client_properties={"connection_name": "datahub"},
        )


_RIGHT = "right is amqp://user:password@host:5672/vhost or amqps://…, with %-escapes for special characters"


class Wire(TwistedProtocolConnection):  # type: ignore[misc]  # pika has no types
    """One connection to the broker, with a watchdog (`silence`) and an end that is sure to come (`hang_up`).

    pika's own answer to missed heartbeats is `loseConnection`, which waits for ever when the peer reads no more.
    """

    def __init__(self, broker: Broker, clock: IReactorTime, heartbeat: int = HEARTBEAT) -> None:
        super().__init__(broker.parameters(heartbeat), custom_reactor=clock)
        self.ready: Deferred[Any] | None
        self._broker = broker
        self._clock = clock
        self._heard = True
        self._silence = 1.5 * heartbeat
        self._partings: list[Deferred[None]] = []

    @classmethod
    async def connect(
        cls, broker: Broker, endpoint: IStreamClientEndpoint, clock: IReactorTime, heartbeat: int = HEARTBEAT
    ) -> Wire:
        """Reach the broker; the handshake is still to come (`opened`)."""
        wire = cls(broker, clock, heartbeat)
        await endpoint.connect(Factory.forProtocol(lambda: wire))
        return wire

    async def opened(self) -> None:
        """Return when the handshake is done; raises what the broker says against it, or `TimeoutError`."""
        ready = self.ready or succeed(None)
        await within(HANDSHAKE, ready, self._clock, f"the handshake with {self._broker.name}")

    async def hang_up(self) -> None:
        """End the connection: politely if the broker answers, at once if it does not."""
        if self.is_open:
            self.close()
            try:
                await within(GOODBYE, self._gone(), self._clock, "the broker's good-bye")
            except TimeoutError as late:
                log.debug("{late}: the connection is cut", late=str(late))
        if self.connected:
            self.transport.abortConnection()
            await self._gone()

    async def silence(self) -> NoReturn:
        """Raise `TimeoutError` once the broker has sent nothing, not even a heartbeat, for too long.

        Counted in whole waits, not by the clock: a clock that is stepped must not cut a good connection.
        """
        while self._heard:
            self._heard = False
            await sleep(self._silence, self._clock)
        raise TimeoutError(f"it was silent for {self._silence:g} s")

    def dataReceived(self, data: bytes) -> None:
        """Take note that the broker lives: Twisted's call."""
        self._heard = True
        super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell pika and all who wait for the end: Twisted's call."""
        self.connected = 0
        # pika keeps what the broker said against us here, and would put "closed cleanly" in its place.
        told = self._impl._error  # noqa: SLF001  # no public name
        try:
            super().connectionLost(Failure(told) if told and reason.check(ConnectionDone) else reason)
        except AlreadyCalledError:
            # pika fails whatever it was asked, and can't if that was cancelled here and answered all the same.
            log.debug("the connection was lost with a cancelled request under way")
        finally:
            for parting in self._partings:
                parting.callback(None)

    def _on_connection_failed(self, connection: Any, fault: Exception | None = None) -> None:
        # pika would put its count of attempts in the place of the broker's reason.
        ready, self.ready = self.ready, None
        if ready is not None:
            ready.errback(fault or ConnectionError("the broker ended the handshake"))

    async def _gone(self) -> None:
        if self.connected:
            parting: Deferred[None] = Deferred()
            self._partings.append(parting)
            await parting
