"""The masters: which of them leads, and asking that one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from twisted.logger import Logger

from datahub.errors import Unavailable, UpstreamFault, UpstreamSilent
from datahub.kit.aio import gather
from datahub.sandboxes.wire import Incoming, Origin, Reply, Wire

__all__ = ["Masters"]

log = Logger()

PORT: Final = 5050
# Masters name the leader by 307; whoever answers otherwise is something in front of them, and gets no credentials.
REDIRECTS: Final = frozenset({307})
WORDS: Final = {
    401: "refuses the hub's credentials (401)",
    403: "does not let the hub look (403)",
    503: "does not lead, or knows no leader (503)",
}


class Headed(Protocol):
    """What is known of an answer by its head."""

    @property
    def status(self) -> int:
        """Its status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, by name in lower case."""


R = TypeVar("R", bound=Headed)


class Masters:
    """The masters of the configuration, and the leader they name.

    Credentials go to nobody else: a leader who sends us on is not followed.
    """

    def __init__(self, wire: Wire, masters: Sequence[str]) -> None:
        self._wire = wire
        self._configured = tuple(Origin.of(url, PORT) for url in masters)
        self._leader: Origin | None = None

    @property
    def scheme(self) -> str:
        """How the leader is spoken to: http or https."""
        return (self._leader or self._configured[0]).scheme

    async def get(self, path: str, query: Mapping[str, str] | None = None, *, limit: int) -> Reply:
        """A small answer of the leader; its status is 200 or 404. Raises `UpstreamFault`."""

        async def ask(who: str, origin: Origin) -> Reply:
            return await self._wire.get(who, origin, path, query, limit=limit)

        return await _Asking(self, ask).answer()

    async def open(self, path: str) -> Incoming:
        """The beginning of a large answer of the leader; its status is 200 or 404. Raises `UpstreamFault`."""

        async def ask(who: str, origin: Origin) -> Incoming:
            incoming = await self._wire.open(who, origin, path)
            if incoming.status != 200:
                incoming.abort()
            return incoming

        return await _Asking(self, ask).answer()

    async def candidates(self) -> AsyncGenerator[Origin, None]:
        """Who may lead, the likeliest first: who did last, whom the others name, and each of the configured."""
        if not self._configured:
            raise Unavailable("no Mesos master is configured; [sandbox] masters names them")
        asked = {self._leader or self._configured[0]}
        yield next(iter(asked))
        named = (
            await self._named() if len(self._configured) > 1 or self._leader not in (None, *self._configured) else []
        )
        for origin in dict.fromkeys((*named, *self._configured)):
            if origin not in asked:
                asked.add(origin)
                yield origin

    async def _named(self) -> list[Origin]:
        """Ask all masters at once who leads; those who don't know are passed over."""
        found = await gather(*(self._redirect(origin) for origin in self._configured))
        return [each for each in found if each is not None]

    async def _redirect(self, origin: Origin) -> Origin | None:
        try:
            reply = await self._wire.get(self.name(origin), origin, "/redirect", known=False)
        except UpstreamFault:
            return None
        return self.leader_of(origin, reply) if reply.status in REDIRECTS else None

    def leader_of(self, origin: Origin, reply: Headed) -> Origin | None:
        """Whom a configured master names; the scheme is ours, so that nobody makes us speak in clear."""
        if origin not in self._configured:
            return None
        try:
            parts = urlsplit(reply.headers.get("location", ""))
            named = Origin(origin.scheme, parts.hostname or "", parts.port or PORT)
        except ValueError:
            return None
        same = [each for each in self._configured if replace(each, prefix="") == named]
        return (same or [named])[0] if named.host else None

    def name(self, origin: Origin) -> str:
        """What a master is called in texts, which tell no addresses."""
        if origin not in self._configured:
            return "the leading Mesos master"
        count = len(self._configured)
        return "the Mesos master" if count == 1 else f"Mesos master {self._configured.index(origin) + 1} of {count}"

    def lead(self, origin: Origin | None) -> None:
        """Remember who leads."""
        if origin != self._leader and origin is not None:
            log.info("the leading Mesos master is {host}:{port}", host=origin.host, port=origin.port)
        self._leader = origin


class _Asking(Generic[R]):
    """One question, put to one master after the other until the leader answers it."""

    def __init__(self, masters: Masters, ask: Callable[[str, Origin], Awaitable[R]]) -> None:
        self._masters = masters
        self._ask = ask
        self._faults: list[UpstreamFault] = []
        self._tried: set[Origin] = set()

    async def answer(self) -> R:
        async with aclosing(self._masters.candidates()) as candidates:
            async for origin in candidates:
                reply = await self._try(origin)
                if reply is not None:
                    return reply
        self._masters.lead(None)
        kind = UpstreamSilent if all(isinstance(each, UpstreamSilent) for each in self._faults) else UpstreamFault
        raise kind("; ".join(dict.fromkeys(str(each) for each in self._faults)))

    async def _try(self, origin: Origin | None) -> R | None:
        """The answer of ``origin``, or of the leader it names; None, and a fault noted, if there is none."""
        while origin is not None and origin not in self._tried:
            self._tried.add(origin)
            who = self._masters.name(origin)
            try:
                reply = await self._ask(who, origin)
            except UpstreamFault as fault:
                self._faults.append(fault)
                return None
            if reply.status in {200, 404}:
                self._masters.lead(origin)
                return reply
            named = self._masters.leader_of(origin, reply) if reply.status in REDIRECTS else None
            if named is None:
                self._faults.append(UpstreamFault(f"{who} {WORDS.get(reply.status, f'answered {reply.status}')}"))
            origin = named
        return None
