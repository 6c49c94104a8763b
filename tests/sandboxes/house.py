"""A hub's sandboxes before a fake Mesos, all on loopback, and a caller who counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString, wrapServerTLS
from twisted.internet.protocol import Protocol
from twisted.web.client import Agent as HttpAgent
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from datahub.config import LimitsSection, TlsSection
from datahub.sandboxes.decoding import Decoder
from datahub.sandboxes.following import Pace, Watches
from datahub.sandboxes.masters import Masters
from datahub.sandboxes.mesos import Mesos
from datahub.sandboxes.routes import SandboxRoutes
from datahub.sandboxes.service import Sandboxes
from datahub.sandboxes.wire import TimeLimits, Wire, basic, trust
from datahub.web.root import Root
from datahub.web.server import HubSite
from datahub.web.site import tls_options
from datahub.web.traffic import Traffic
from tests.fakes.mesos import Agent, Cluster
from tests.web.memory import Entries, gate

__all__ = ["GIB", "QUICK", "House", "Reply"]

GIB = 1024**3
LIMITS = LimitsSection(connections=2000, header=16384, body=2000, idle=60.0)
PATIENT = TimeLimits(connect=30.0, answer=30.0, stall=30.0)
"""As long as a busy machine may take: no peer hangs, unless a test is about that."""
QUICK = TimeLimits(connect=2.0, answer=2.0, stall=1.0)
BRISK = Pace(poll=0.02, ended=0.05, patience=0.5)


@dataclass(frozen=True)
class Reply:
    """What came back; ``whole`` is False if it was broken off."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class House:
    """The hub's side; ``fake`` is the other. With ``pem``, a key and its certificate, callers speak TLS."""

    reactor: Any
    fake: Cluster
    root: Path
    masters: list[str] = field(default_factory=list)
    base: str = "http://127.0.0.1"
    limit: int = GIB
    ttl: float = 5.0
    scheme: str = "auto"
    credentials: tuple[str, str] = ("", "")
    verify: bool = True
    ca: bytes | None = None
    patience: TimeLimits = PATIENT
    pace: Pace = BRISK
    pem: Path | None = None
    wire: Any = None
    mesos: Any = None
    port: Any = None

    def open(self) -> House:
        """Listen, and know the fake's masters."""
        names = self.masters or [f"{self.base}:{each.number}" for each in self.fake.masters]
        policy = trust(verify=self.verify, ca=self.ca)
        self.wire = Wire(self.reactor, basic(*self.credentials), policy, self.patience)
        masters = Masters(self.wire, names)
        self.mesos = Mesos(self.wire, masters, Decoder(self.reactor), self.ttl, self.scheme)
        sandboxes = Sandboxes(self.mesos, Watches(self.pace, self.reactor), self.limit)
        routes = SandboxRoutes(sandboxes, self.patience.stall)
        traffic = Traffic(LIMITS.connections, self.reactor)
        site = HubSite(Root([routes.app]), gate(), LIMITS, "hub1", Entries(), traffic, self.reactor, ("read",))
        endpoint: Any = serverFromString(self.reactor, "tcp:0:interface=127.0.0.1")
        if self.pem is not None:
            # As the hub's listeners do.
            endpoint = wrapServerTLS(tls_options(TlsSection(self.pem, self.pem), "house"), endpoint, self.reactor)
        endpoint.listen(site).addCallback(lambda port: setattr(self, "port", port))
        return self

    async def close(self) -> None:
        """Leave nothing behind."""
        await self.port.stopListening()
        await self.wire.stop()
        await self.fake.close()

    @property
    def url(self) -> str:
        return f"http{'s' * (self.pem is not None)}://127.0.0.1:{self.port.getHost().port}"

    def path(self, name: str, **query: object) -> str:
        """The path of a fetch."""
        asked = "&".join(f"{key}={quote(str(value), safe='/')}" for key, value in query.items())
        return f"/fetch/{quote(name, safe='')}" + (f"?{asked}" if asked else "")

    async def fetch(
        self, name: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, **query: object
    ) -> Reply:
        """Fetch and read to the end."""
        path = name if name.startswith("/fetch/") else self.path(name, **query)
        response = await self.begin(path, method, headers)
        body = Body()
        response.deliverBody(body)
        await body.done
        pairs = response.headers.getAllRawHeaders()
        found = {key.decode().lower(): values[-1].decode() for key, values in pairs}
        if isinstance(response.length, int) and method != "HEAD":
            found["content-length"] = str(response.length)
        return Reply(response.code, found, bytes(body.data), body.whole)

    async def begin(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Any:
        """The head of an answer; the caller takes the body."""
        wanted = Headers({key: [value] for key, value in (headers or {}).items()})
        agent = HttpAgent(self.reactor, trust(verify=False, ca=None))
        return await agent.request(method.encode(), f"{self.url}{path}".encode(), wanted)

    def put(self, agent: Agent, directory: str, files: Mapping[str, bytes]) -> Path:
        """Fill the sandbox of an executor."""
        real = agent.sandbox(directory, self.root)
        for name, data in files.items():
            (real / name).parent.mkdir(parents=True, exist_ok=True)
            (real / name).write_bytes(data)
        return real


class Body(Protocol):
    """A body that is collected."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.done: Deferred[None] = Deferred()
        self.whole = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        self.whole = reason is not None and reason.check(ResponseDone) is not None
        self.done.callback(None)
