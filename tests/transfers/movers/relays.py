"""A port before a server, with the manners that a test chooses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as Speaker
from twisted.internet.task import LoopingCall
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyServer

__all__ = ["Behind", "Relay"]

OFTEN = 0.01
"""Seconds between two pieces of what has no end."""
SIP = 0.2
"""Seconds from one piece to the next."""


class Client(ProxyClientFactory):
    noisy = False


class Good(ProxyServer):
    """Lets everything through."""

    clientProtocolFactory = Client  # noqa: N815 - Twisted's name


class _ResetAtOnce(ProxyClient):
    peer: Any

    def dataReceived(self, data: bytes) -> None:
        self.peer.transport.abortConnection()


class _ClientThatResets(Client):
    protocol = _ResetAtOnce


class Resetting(Good):
    """Breaks off as soon as the server has said something."""

    clientProtocolFactory = _ClientThatResets  # noqa: N815 - Twisted's name


class _Drip(ProxyClient):
    peer: Any

    def connectionMade(self) -> None:
        super().connectionMade()
        self._kept = b""
        self._dripping = LoopingCall(self._drip)
        self._dripping.start(1.0, now=False)

    def dataReceived(self, data: bytes) -> None:
        self._kept += data

    def _drip(self) -> None:
        if self._kept and self.peer is not None:
            self.peer.transport.write(self._kept[:1])
            self._kept = self._kept[1:]

    def connectionLost(self, reason: Any = None) -> None:
        self._dripping.stop()
        super().connectionLost(reason)


class _ClientThatDrips(Client):
    protocol = _Drip


class Dripping(Good):
    """Gives on a byte a second of what the server says."""

    clientProtocolFactory = _ClientThatDrips  # noqa: N815 - Twisted's name


class Sipping(Good):
    """Takes in what comes from the client a little at a time."""

    transport: Any

    def connectionMade(self) -> None:
        super().connectionMade()
        self._sipping = LoopingCall(self.transport.resumeProducing)
        self._sipping.start(SIP, now=False)

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.pauseProducing()

    def connectionLost(self, reason: Any = None) -> None:
        self._sipping.stop()
        super().connectionLost(reason)


class Babbling(Speaker):
    """Talks nonsense, unasked and asked."""

    transport: Any

    def connectionMade(self) -> None:
        self.dataReceived(b"")

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(os.urandom(1000) + b"\r\n")


class Greeting(Speaker):
    """Greets without end, in the words of an FTP server."""

    transport: Any

    def connectionMade(self) -> None:
        self._greeting = LoopingCall(lambda: self.transport.write(b"220-you are welcome\r\n" * 100))
        self._greeting.start(OFTEN)

    def connectionLost(self, reason: Any = None) -> None:
        self._greeting.stop()


MANNERS: dict[str, type[Speaker]] = {
    "good": Good,
    "resets": Resetting,
    "drips": Dripping,
    "sips": Sipping,
    "babbles": Babbling,
    "greets": Greeting,
}


class Relay(Factory):
    """New connections meet the ``manners`` of the moment: "good" ones go on to the port ``behind`` of this host."""

    noisy = False

    def __init__(self, reactor: Any, behind: int) -> None:
        self.manners = "good"
        self.met: list[str] = []
        self._speakers: list[Any] = []
        self.host, self.port = "127.0.0.1", behind
        self._listening = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.front: int = self._listening.getHost().port

    def buildProtocol(self, address: Any) -> Speaker:
        """Give who speaks on a new connection."""
        self.met.append(self.manners)
        speaker = MANNERS[self.manners]()
        speaker.factory = self
        self._speakers.append(speaker)
        return speaker

    async def stop(self) -> None:
        """Take no more connections, and break off those that nobody has ended."""
        await self._listening.stopListening()
        for each in self._speakers:
            for end in (each, getattr(each, "peer", None)):
                if end is not None and end.transport is not None:
                    end.transport.abortConnection()


class _Server(Protocol):
    port: int

    def room(self, home: Path) -> Path: ...

    def url(self, path: Path | str) -> str: ...


@dataclass
class Behind:
    """A server, by the port of the relay before it."""

    relay: Relay
    server: _Server

    def room(self, home: Path) -> Path:
        return self.server.room(home)

    def url(self, path: Path | str) -> str:
        return self.server.url(path).replace(f":{self.server.port}/", f":{self.relay.front}/")
