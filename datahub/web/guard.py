"""Who may knock: no web page that somebody's browser shows drives the hub, and proxies tell whom they speak for.

A page of evil.example can let its name mean 127.0.0.1 and then ask a hub there as its own origin: the `Host` header
gives it away. Without that trick a browser tells in `Sec-Fetch-Site` or `Origin` where a request comes from (Fetch
Metadata).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from datahub.config import ListenSection
from datahub.errors import Misdirected, NotPermitted
from datahub.kit.endpoints import parse_endpoint

__all__ = ["Guard", "guard_of"]

LOOPBACK = "localhost"
OURS = ("same-origin", "none")
"""What `Sec-Fetch-Site` says of requests that a page of our own made, or the person at the browser himself."""


class Guard:
    """Checks what a request says of where it comes from.

    ``names`` are the host names that it may be sent to, beside loopback and addresses in figures (which no page can
    make its own); None: any. ``proxies`` are addresses, networks, or "unix", whose `X-Forwarded-For` is believed.
    """

    def __init__(self, names: Collection[str] | None = None, proxies: Iterable[str] = ()) -> None:
        self._names = None if names is None else frozenset(map(_folded, names))
        self._unix = "unix" in proxies
        self._networks = [ipaddress.ip_network(each, strict=False) for each in proxies if each != "unix"]

    def check_host(self, host: str | None) -> None:
        """Raise `Misdirected` unless ``host``, a `Host` header, is one of ours; a browser always sends one."""
        if self._names is None or host is None:
            return
        name = _folded(_without_port(host))
        if name in self._names or name == LOOPBACK or name.endswith(f".{LOOPBACK}") or _is_address(name):
            return
        raise Misdirected(f"Host {host[:100]!r} is not a name of this hub: [listen] hosts, or [hub] url, has its names")

    def check_origin(self, site: str | None, origin: str | None, host: str | None) -> None:
        """Raise `NotPermitted` for a change that a page of another site asks for.

        ``site`` is `Sec-Fetch-Site`; browsers that have it not send `Origin` with all that is not a GET.
        """
        if site is not None:
            foreign = site not in OURS
        else:
            foreign = origin is not None and _host_of(origin) != _folded(host or "")
        if foreign:
            told = origin or f"Sec-Fetch-Site: {site}"
            raise NotPermitted(
                f"a web page of another site ({told[:100]!r}) may change nothing here", code="request.cross_site"
            )

    def address(self, peer: str, forwarded: Iterable[str]) -> str:
        """The caller's address: ``peer``, or whom trusted proxies say that they speak for (`X-Forwarded-For`)."""
        if not (self._networks or self._unix):
            return peer
        chain = [each.strip() for line in forwarded for each in line.split(",")]
        caller = peer
        while chain and self._trusts(caller):
            told = _without_port(chain.pop())
            if not _is_address(told):
                break
            caller = told
        return caller

    def _trusts(self, address: str) -> bool:
        if address == "unix":
            return self._unix
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)


def guard_of(section: ListenSection, url: str | None) -> Guard:
    """The guard of a listener: names are checked where it has some, and where only this machine's browsers reach it."""
    endpoint = parse_endpoint(section.endpoint)
    own = [urlsplit(url).hostname or ""] if url else []
    checks = bool(section.hosts) or (endpoint.local and endpoint.kind != "unix")
    return Guard([*section.hosts, *own] if checks else None, section.proxies)


def _folded(name: str) -> str:
    return name.lower().rstrip(".")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and ":" not in name else host


def _host_of(origin: str) -> str:
    """Host and port of an origin; of "null", nothing."""
    return _folded(origin.partition("://")[2])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
