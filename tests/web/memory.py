"""A hub's web side in memory: the real site and the real client, without a socket."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from treq.testing import StubTreq
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from datahub.auth import Gate, Tokens, digest
from datahub.config import LimitsSection, TokenSection
from datahub.web.app import App
from datahub.web.guard import Guard
from datahub.web.root import Root
from datahub.web.server import HubSite
from datahub.web.traffic import Traffic

__all__ = ["LIMITS", "Client", "Entries", "Entry", "Reply", "Wire", "gate", "make_site"]

LIMITS = LimitsSection(connections=100, header=16384, body=2000, idle=60.0)
TOKENS = {"alice": ("read", "write"), "bob": ("read",), "root": ("admin",)}


class Entry(NamedTuple):
    """A line of the access log."""

    address: str
    caller: str
    method: str
    path: str
    status: int
    sent: int
    milliseconds: float
    request_id: str


@dataclass
class Entries:
    """An access log that is a list."""

    entries: list[Entry] = field(default_factory=list)

    def entry(self, *facts: Any) -> None:
        self.entries.append(Entry(*facts))


def gate() -> Gate:
    """A gate at which each caller's token is his name and "-token"."""
    return Gate(Tokens(TokenSection(name, digest(f"{name}-token"), scopes) for name, scopes in TOKENS.items()))


def make_site(
    apps: Iterable[App],
    *,
    anonymous: Collection[str] = ("read", "write"),
    limits: LimitsSection = LIMITS,
    clock: Clock | None = None,
    access_log: Entries | None = None,
    guard: Guard | None = None,
) -> HubSite:
    """The site of a hub called hub1."""
    clock = clock or Clock()
    traffic = Traffic(limits.connections, clock)
    return HubSite(Root(apps), gate(), limits, "hub1", access_log or Entries(), traffic, clock, anonymous, guard)


class Reply(NamedTuple):
    """What came back; ``headers`` in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """treq before a site in memory."""

    def __init__(self, site: HubSite) -> None:
        self.treq: Any = StubTreq(site.resource)
        # Its agent would build a Site of Twisted's around the resource; ours is what is tested.
        self.treq._agent._serverFactory = site

    async def ask(self, method: str, path: str, **arguments: Any) -> Reply:
        """Send a request and read the answer whole."""
        answering = self.treq.request(method, f"http://hub{path}", **arguments)
        self.treq.flush()
        response = await answering
        reading = self.treq.content(response)
        self.treq.flush()
        pairs = response.headers.getAllRawHeaders()
        headers = {name.decode().lower(): values[0].decode() for name, values in pairs}
        return Reply(response.code, headers, await reading)


class Wire:
    """One connection to a site, on which any bytes can be sent."""

    def __init__(self, site: HubSite) -> None:
        self.transport = StringTransport()
        self.channel = site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> Wire:
        """Send ``data``."""
        self.channel.dataReceived(data)
        return self

    def hang_up(self) -> None:
        """Break the connection."""
        self.channel.connectionLost(Failure(ConnectionLost()))

    def closing(self) -> bool:
        """Whether the site closes, or has closed, the connection."""
        return self.transport.disconnecting or self.transport.disconnected

    @property
    def replies(self) -> list[Reply]:
        """All whole answers that came back."""
        replies, rest = [], self.transport.value()
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            length = int(headers.get("content-length", 0))
            replies.append(Reply(int(first.split()[1]), headers, rest[:length]))
            rest = rest[length:]
        return replies

    @property
    def reply(self) -> Reply:
        """The one answer that came back."""
        (reply,) = self.replies
        return reply
