"""Asking an FTS server over TLS: as whom, over which connections, how much at once, and how long for an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import DeferredSemaphore
from twisted.web.client import URI, Agent, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from datahub import __version__
from datahub.errors import PassingFault
from datahub.kit.aio import cancellable, within
from datahub.kit.asking import SHOWN, UNREACHED, Opening, cause
from datahub.kit.clock import HubClock
from datahub.kit.sharing import Shared
from datahub.kit.threads import Pool
from datahub.transfers.movers.proxies import Credentials, Papers, outdated, sign

__all__ = ["LARGEST", "Asked", "Session", "TooLarge", "Wire"]

CONNECT = 10.0
ANSWER = 60.0
"""Seconds until the end of an answer, the wait for a turn among them."""

LARGEST = 64 * 1024 * 1024
CONNECTIONS = 8
"""Requests under way, and so connections: FTS has some dozens of processes for all its users."""

FRESH = 1.0
"""Seconds in which the files of the credentials are not looked at again."""


class TooLarge(PassingFault):
    """An answer has more than `LARGEST` bytes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer, read to its end."""

    code: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Session:
    """What is true as long as the files of the credentials are the same."""

    stamp: object
    own: Credentials
    client: HTTPClient
    pool: HTTPConnectionPool

    @property
    def until(self) -> float:
        """When the hub's own credentials expire, in seconds since 1970."""
        return self.own.until.timestamp()


class Wire:
    """Asks the server at ``url`` as ``papers`` say, which must be a certificate with its key, or a proxy.

    Files are read and keys used in ``threads``, which are started and stopped here; ``policy`` is called there.
    """

    def __init__(
        self,
        url: str,
        papers: Papers,
        policy: Callable[[], IPolicyForHTTPS],
        clock: HubClock,
        reactor: Any,
        threads: Pool,
    ) -> None:
        self.url = url
        self.papers = papers
        self._policy = policy
        self._clock = clock
        self._reactor = reactor
        self._threads = threads
        self._session: Session | None = None
        self._sessions = Shared(self._look, FRESH, reactor)
        self._turns = DeferredSemaphore(CONNECTIONS)

    def start(self) -> None:
        """Take up the threads; nothing is asked before it is needed."""
        self._threads.start()

    async def stop(self) -> None:
        """Close the connections, and end the threads."""
        if self._session is not None:
            await self._session.pool.closeCachedConnections()
        await self._threads.stop()

    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock.wall() / 1000

    async def session(self) -> Session:
        """The one that counts now; raises `PassingFault` if the credentials can't be read, or have expired."""
        session = await self._sessions.get()
        if session.until <= self.now():
            raise PassingFault(outdated(self.papers.shown, session.own))
        return session

    async def _look(self) -> Session:
        try:
            stamp, made = await self._threads.run(self._read)
        except ValueError as error:
            raise PassingFault(str(error)) from error
        if made is None and self._session is not None:
            return self._session
        own, policy = made
        if self._session is not None:
            self._session.pool.closeCachedConnections()
        pool = HTTPConnectionPool(self._reactor)
        pool.maxPersistentPerHost = CONNECTIONS
        pool._factory = _Quiet  # noqa: SLF001 - Twisted has no other way
        agent = Agent(self._reactor, policy, connectTimeout=CONNECT, pool=pool)
        self._session = Session(stamp, own, HTTPClient(agent), pool)
        return self._session

    def _read(self) -> Any:
        """The stamp of the files, and what is in them if that is another; what is written meanwhile is seen next."""
        stamp = self.papers.stamp()
        if self._session is not None and self._session.stamp == stamp:
            return stamp, None
        return stamp, (self.papers.load(), _Prepared(self._policy(), self.url))

    async def sign(self, request: bytes, lifetime: float) -> bytes:
        """A proxy for who has made ``request``, as `datahub.transfers.movers.proxies.sign`; raises `ValueError`."""
        session = await self.session()
        return await self._threads.run(sign, request, session.own, self.now(), lifetime)

    async def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Asked:
        """One answer; raises `PassingFault` if there is none, or one that leads elsewhere."""
        try:
            asking = self._in_turn(method, path, body, kind)
            return await within(ANSWER, asking, self._reactor, f"the answer of {self.url}")
        except TimeoutError as error:
            raise PassingFault(f"the FTS server is silent: {error}") from None
        except UNREACHED as error:
            raise PassingFault(f"the FTS server {self.url} can't be reached: {cause(error)}") from None

    async def _in_turn(self, method: str, path: str, body: bytes | None, kind: str) -> Asked:
        await self._turns.acquire()
        try:
            return await self._answer(method, path, body, kind)
        finally:
            self._turns.release()

    async def _answer(self, method: str, path: str, body: bytes | None, kind: str) -> Asked:
        headers = Headers({"Accept": ["application/json"], "User-Agent": [f"datahub/{__version__}"]})
        if body is not None:
            headers.addRawHeader("Content-Type", kind)
        client = (await self.session()).client
        # Who is sent elsewhere would show his proxy to whoever is there.
        asking = client.request(
            method, self.url + path, data=body, headers=headers, unbuffered=True, allow_redirects=False
        )
        response = await cancellable(asking)
        opening = Opening(LARGEST)
        response.deliverBody(opening)
        await opening.ended
        if opening.full:
            raise TooLarge(f"{self.url} gives an answer of more than {LARGEST} bytes")
        if not opening.whole:
            raise PassingFault(f"{self.url} broke off in the middle of an answer")
        if 300 <= response.code < 400:
            (place,) = response.headers.getRawHeaders("Location", ["an unknown place"])[:1]
            told = f"{self.url} answered {response.code}: it sends the hub to {place[:SHOWN]}"
            raise PassingFault(f"{told}; if that is right, write it into [transfers.movers]")
        return Asked(response.code, opening.data)


class _Quiet(_HTTP11ClientFactory):
    """Twisted would log each connection that is made, and that it is closed."""

    noisy = False


@implementer(IPolicyForHTTPS)
class _Prepared:
    """TLS to a single server, made ready in a thread: many authorities are much to read, for each connection."""

    def __init__(self, policy: IPolicyForHTTPS, url: str) -> None:
        place = URI.fromBytes(url.encode("ascii"))
        self._creator = policy.creatorForNetloc(place.host, place.port)

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:  # noqa: N802 - Twisted's
        """What makes connections to that server."""
        return self._creator
