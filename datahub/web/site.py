"""The listeners of the configuration: opened all or none, and closed when their callers have been served."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL.SSL import Error as TlsError
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString, wrapServerTLS
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IStreamServerEndpoint
from twisted.internet.ssl import CertificateOptions
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from datahub.auth import Gate
from datahub.config import LimitsSection, ListenSection, TlsSection
from datahub.errors import StartError
from datahub.web.guard import guard_of
from datahub.web.request import HubRequest
from datahub.web.root import Root
from datahub.web.server import HubSite, RequestLog
from datahub.web.traffic import Traffic

__all__ = ["HubRequest", "HubSite", "Listeners", "RequestLog", "Root"]

log = Logger()

REASONS = {
    errno.EADDRINUSE: "the port is in use; choose another endpoint in [[listen]] or stop who holds it (ss -ltnp)",
    errno.EACCES: "permission is denied; a port below 1024 needs CAP_NET_BIND_SERVICE, a socket file a writable folder",
    errno.EADDRNOTAVAIL: "this machine has no such address; the interface must be one that `ip address` lists",
    errno.ENOENT: "the folder of the socket file does not exist",
}


class Listeners:
    """All places where callers are answered; ``anonymous`` are the scopes where a section names none.

    ``url`` is how the world reaches the hub.
    """

    def __init__(
        self,
        sections: Iterable[ListenSection],
        make_root: Callable[[ListenSection], IResource],
        gate: Gate,
        limits: LimitsSection,
        node: str,
        access_log: RequestLog,
        reactor: Any,
        anonymous: Collection[str] = (),
        url: str | None = None,
    ) -> None:
        self._sections = tuple(sections)
        self._make_root = make_root
        self._reactor = reactor
        self._traffic = Traffic(limits.connections, reactor)
        self._anonymous = anonymous
        self._url = url
        self._make_site = partial(
            HubSite,
            gate=gate,
            limits=limits,
            node=node,
            access_log=access_log,
            traffic=self._traffic,
            reactor=reactor,
        )
        self._ports: list[IListeningPort] = []

    @property
    def draining(self) -> bool:
        """Whether `stop` has begun."""
        return self._traffic.draining

    @property
    def addresses(self) -> list[IAddress]:
        """Where is listened now, in the order of the sections."""
        return [port.getHost() for port in self._ports]

    def start(self) -> None:
        """Listen everywhere, now.

        Raises `StartError` naming the listener and what to do; then nothing listens.
        """
        try:
            for section in self._sections:
                self._ports.append(self._listen(section))
                log.info("listening at {endpoint}", endpoint=section.endpoint)
        except StartError:
            self._close()
            raise

    def _listen(self, section: ListenSection) -> IListeningPort:
        name = f"listen {section.endpoint!r}"
        anonymous = self._anonymous if section.anonymous is None else section.anonymous
        try:
            guard = guard_of(section, self._url)
            site = self._make_site(self._make_root(section), anonymous=anonymous, guard=guard)
            # "systemd:" fails here, already, when it was given no such socket.
            endpoint = self._endpoint(section, name)
            outcome: list[IListeningPort | Failure] = []
            endpoint.listen(site).addBoth(outcome.append)
        except (ValueError, LookupError, TypeError, OSError) as error:
            raise StartError(f"{name}: {_reason(error)}") from error
        if not outcome:
            raise StartError(f"{name}: this kind of endpoint does not listen at once; use tcp:, unix: or systemd:")
        if isinstance(outcome[0], Failure):
            raise StartError(f"{name}: {_reason(outcome[0].value)}") from outcome[0].value
        return outcome[0]

    def _endpoint(self, section: ListenSection, name: str) -> IStreamServerEndpoint:
        endpoint: IStreamServerEndpoint = serverFromString(self._reactor, section.endpoint)
        if section.tls is None:
            return endpoint
        return wrapServerTLS(tls_options(section.tls, name), endpoint, self._reactor)

    def _close(self) -> list[Any]:
        ports, self._ports = self._ports, []
        return [maybeDeferred(port.stopListening) for port in ports]

    async def stop(self, drain: float) -> None:
        """Stop listening at once, serve the requests under way for at most ``drain`` seconds, close the rest."""
        closing = self._close()
        await self._traffic.drain(drain)
        for each in closing:
            await each


def _reason(error: BaseException | None) -> str:
    cause = error.socketError if isinstance(error, CannotListenError) else error
    return REASONS.get(getattr(cause, "errno", None) or 0) or f"it can't be opened: {cause}"


def tls_options(section: TlsSection, name: str) -> CertificateOptions:
    """The TLS of a listener called ``name``; raises `StartError` naming the file that is wrong."""
    chain = _loaded(section.certificate, x509.load_pem_x509_certificates, "certificates", name)
    key = _loaded(section.key, lambda data: load_pem_private_key(data, None), "a private key without password", name)
    first, *further = chain
    # pyOpenSSL's own classes, which Twisted's annotations ask for, are on their way out.
    options = CertificateOptions(privateKey=key, certificate=first, extraCertChain=further or None)
    try:
        # Twisted makes it only for the first caller, who would be the first to hear that they don't match.
        options.getContext()
    except TlsError as error:
        raise StartError(f"{name}: the key {section.key} does not belong to {section.certificate}") from error
    return options


def _loaded(path: Path, load: Callable[[bytes], Any], what: str, name: str) -> Any:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise StartError(f"{name}: {path} can't be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise StartError(f"{name}: {path} must hold {what} in PEM form: {error}") from error
