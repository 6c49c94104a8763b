"""HTTP to masters and agents: who may be sent credentials, how long is waited, and what went wrong in plain words."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast
from urllib.parse import quote, urlencode, urlsplit

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.error import ConnectionRefusedError as RefusedError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    ResponseDone,
    _HTTP11ClientFactory,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from datahub.errors import UpstreamFault, UpstreamSilent
from datahub.kit.aio import within

__all__ = ["Incoming", "Origin", "Reply", "TimeLimits", "Unreached", "Unverified", "Wire", "basic", "trust"]

log = Logger()

# What is read from a socket at once: with Twisted's own 64 KiB a large file takes a fifth longer.
READ_SIZE: Final = 256 * 1024
SMALL: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds: to connect, until an answer begins (or a small one ends), and between two parts of a large one."""

    connect: float = 5.0
    answer: float = 30.0
    stall: float = 30.0


@dataclass(frozen=True, slots=True)
class Origin:
    """A server: what a URL is up to its path; ``prefix`` is put before each path."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @classmethod
    def of(cls, url: str, default_port: int) -> Origin:
        """The server of ``url``; raises `ValueError` if it names none."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} names no server")
        return cls(parts.scheme, parts.hostname, parts.port or default_port, parts.path.rstrip("/"))

    def url(self, path: str, query: Mapping[str, str]) -> bytes:
        """The URL of ``path`` there; Mesos takes a plus for a blank, so both are spelled out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        asked = f"?{urlencode(query, quote_via=quote, safe='/')}" if query else ""
        return f"{self.scheme}://{host}:{self.port}{self.prefix}{path}{asked}".encode("ascii")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that was read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Incoming:
    """An answer whose body is still to come; ``length`` None if it is not told."""

    def __init__(self, response: IResponse, line: _Line) -> None:
        self.status: int = response.code
        self.headers = _headers(response)
        self.length = response.length if isinstance(response.length, int) else None
        self._response = response
        self._line = line

    def deliver(self, protocol: TwistedProtocol) -> None:
        """Let ``protocol`` have the body."""
        self._response.deliverBody(protocol)

    def abort(self) -> None:
        """Close the connection at once, whatever is still to come."""
        self._line.abort()


class Policy(Protocol):
    """Who is believed to be who he says (Twisted's IPolicyForHTTPS)."""

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:  # noqa: N802 - Twisted's name
        """What makes TLS connections to ``hostname``."""


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    def __init__(self, hostname: bytes) -> None:
        self._hostname = hostname
        self._context = CertificateOptions(verify=False).getContext()

    def clientConnectionForTLS(self, tls_protocol: Any) -> SSL.Connection:  # noqa: N802 - Twisted's name
        connection = SSL.Connection(self._context, None)
        connection.set_tlsext_host_name(self._hostname)
        return connection


@implementer(IPolicyForHTTPS)
class Unverified:
    """Believe everybody."""

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:  # noqa: N802 - Twisted's name
        """See `Policy`."""
        return _Unverified(hostname)


def trust(*, verify: bool, ca: bytes | None) -> Policy:
    """Whom to believe: nobody is asked without ``verify``; ``ca`` is PEM, in place of the machine's authorities.

    Raises `ValueError` if ``ca`` holds no certificates.
    """
    if not verify:
        return Unverified()
    if ca is None:
        return cast(Policy, BrowserLikePolicyForHTTPS())
    found = x509.load_pem_x509_certificates(ca)
    roots = trustRootFromCertificates([Certificate(X509.from_cryptography(each)) for each in found])
    return cast(Policy, BrowserLikePolicyForHTTPS(trustRoot=roots))


def basic(username: str, password: str) -> str | None:
    """The header of Basic authentication; None for nobody."""
    if not username:
        return None
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode("ascii")


class _Quiet(_HTTP11ClientFactory):
    """Twisted would log each connection that is made, and that it is closed."""

    noisy = False


class Wire:
    """All that is asked of masters and agents; ``authorization`` is the header for those who may have it."""

    def __init__(self, reactor: Any, authorization: str | None, policy: Policy, patience: TimeLimits) -> None:
        self.reactor = reactor
        self.patience = patience
        self._authorization = authorization
        self._endpoints = _Endpoints(reactor, policy, patience.connect)
        self._pool = HTTPConnectionPool(reactor)
        self._pool.retryAutomatically = True
        self._pool._factory = _Quiet  # noqa: SLF001 - Twisted has no other way
        self._agent = Agent.usingEndpointFactory(reactor, cast(IAgentEndpointFactory, self._endpoints), self._pool)

    def start(self) -> None:
        """Nothing is to be started."""

    async def stop(self) -> None:
        """Close the connections that are kept."""
        await self._pool.closeCachedConnections()

    async def get(
        self,
        who: str,
        origin: Origin,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        limit: int = SMALL,
        known: bool = True,
    ) -> Reply:
        """Read an answer of at most ``limit`` bytes; credentials are sent if the server is ``known``.

        Raises `UpstreamFault` and `UpstreamSilent`, which name ``who``.
        """
        url = origin.url(path, query or {})
        with _Explained(who, url):
            return await within(
                self.patience.answer, self._read(url, limit, known), self.reactor, f"the answer of {who}"
            )

    async def _read(self, url: bytes, limit: int, known: bool) -> Reply:
        response = await _requested(self._agent, url, self._headers(known))
        return Reply(response.code, _headers(response), await _collected(response, limit))

    async def open(self, who: str, origin: Origin, path: str, query: Mapping[str, str] | None = None) -> Incoming:
        """Begin an answer of any size on a connection of its own, which the caller must read or abort."""
        url = origin.url(path, query or {})
        line = _Line(self._endpoints)
        agent = Agent.usingEndpointFactory(self.reactor, cast(IAgentEndpointFactory, line))
        with _Explained(who, url):
            asking = _requested(agent, url, self._headers(known=True))
            response = await within(self.patience.answer, asking, self.reactor, f"the answer of {who}")
        return Incoming(response, line)

    def _headers(self, known: bool) -> Headers:
        headers = Headers({"Accept-Encoding": ["identity"], "User-Agent": ["datahub"]})
        if known and self._authorization is not None:
            headers.addRawHeader("Authorization", self._authorization)
        return headers


class Unreached(UpstreamFault):
    """No connection came about."""


async def _requested(agent: Agent, url: bytes, headers: Headers) -> IResponse:
    try:
        return await agent.request(b"GET", url, headers)
    except ConnectingCancelledError as error:
        raise CancelledError from error
    except Exception as error:
        # Twisted tells of a cancelled request as of one that failed, so that whoever cancelled it would not know.
        if any(each.check(CancelledError) for each in getattr(error, "reasons", ())):
            raise CancelledError from error
        raise


class _Explained:
    """Turns what Twisted raises within the block into what is told of ``who``; the log has the URL."""

    def __init__(self, who: str, url: bytes) -> None:
        self._who = who
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, CancelledError | UpstreamFault):
            return
        if isinstance(error, TimeoutError | ConnectTimeoutError):
            raise UpstreamSilent(f"{self._who} did not answer in time") from error
        log.warn("{who} at {url}: {error!r}", who=self._who, url=self._url.decode(), error=error)
        kind = Unreached if isinstance(error, ConnectError | DNSLookupError) else UpstreamFault
        raise kind(f"{self._who} {_in_words(error)}") from error


def _in_words(error: BaseException) -> str:
    reasons = [error, *(each.value for each in getattr(error, "reasons", ()))]
    if any(isinstance(each, SSL.Error) or type(each).__name__ == "VerificationError" for each in reasons):
        return "can't be spoken to by TLS, or has a certificate that is not trusted here"
    if isinstance(error, RefusedError):
        return "refuses connections"
    if isinstance(error, DNSLookupError):
        return "has a host name that is not known here"
    if isinstance(error, ConnectError):
        return "can't be reached"
    return "broke off its answer, or gave one that is not HTTP"


class _Endpoints:
    """Where to connect for a URL."""

    def __init__(self, reactor: Any, policy: Policy, timeout: float) -> None:
        self._reactor = reactor
        self._policy = policy
        self._timeout = timeout

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802 - Twisted's name
        host = uri.host.decode("ascii").strip("[]")
        endpoint = HostnameEndpoint(self._reactor, host, uri.port, self._timeout)
        if uri.scheme == b"https":
            creator = self._policy.creatorForNetloc(host.encode("ascii"), uri.port)
            return cast(IStreamClientEndpoint, _Wide(wrapClientTLS(creator, endpoint)))
        return cast(IStreamClientEndpoint, _Wide(endpoint))


class _Wide:
    """An endpoint whose connections read large pieces."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, factory: Any) -> Deferred[IProtocol]:
        return self._endpoint.connect(factory).addCallback(_widened)


def _widened(protocol: Any) -> Any:
    transport = getattr(protocol, "transport", None)
    socket = getattr(transport, "transport", transport)  # below TLS
    if socket is not None:
        socket.bufferSize = READ_SIZE
    return protocol


class _Line:
    """The connection of one request, so that it can be cut."""

    def __init__(self, endpoints: _Endpoints) -> None:
        self._endpoints = endpoints
        self._protocol: Any = None

    def endpointForURI(self, uri: URI) -> Any:  # noqa: N802 - Twisted's name
        self._endpoint = self._endpoints.endpointForURI(uri)
        return self

    def connect(self, factory: Any) -> Deferred[IProtocol]:
        return self._endpoint.connect(factory).addCallback(self._keep)

    def _keep(self, protocol: Any) -> Any:
        self._protocol = protocol
        return protocol

    def abort(self) -> None:
        if self._protocol is not None and self._protocol.transport is not None:
            self._protocol.transport.abortConnection()


class _Collector(TwistedProtocol):
    def __init__(self, limit: int) -> None:
        self.done: Deferred[bytes] = Deferred(self._stop)
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def _stop(self, _: object) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self._parts.append(data)
        elif not self.done.called:
            self.done.errback(ValueError(f"an answer of more than {self._limit} bytes"))
            self._stop(None)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008 - Twisted's default
        if self.done.called:
            return
        if reason.check(ResponseDone):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(reason)


async def _collected(response: IResponse, limit: int) -> bytes:
    collector = _Collector(limit)
    response.deliverBody(collector)
    return await collector.done


def _headers(response: IResponse) -> Mapping[str, str]:
    pairs = response.headers.getAllRawHeaders()
    return {name.decode("latin-1").lower(): values[-1].decode("latin-1") for name, values in pairs}
