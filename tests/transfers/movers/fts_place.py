"""A fake FTS server on loopback, and the hub's client of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from datahub.kit.clock import HubClock
from datahub.kit.threads import ReactorPool
from datahub.kit.tls import ClientPolicy
from datahub.transfers.movers.fts import Fts
from datahub.transfers.movers.fts_wire import Wire
from datahub.transfers.movers.proxies import Papers
from tests.fakes.fts3 import FakeFts, listen
from tests.gridftp import Authority

__all__ = ["FILE", "Place", "client", "closed", "job", "opened"]

FILE = {"sources": ["gsiftp://a/1"], "destinations": ["gsiftp://b/1"], "checksum": "ADLER32", "filesize": 5}


def job(sid: str = "s1", **params: Any) -> dict[str, Any]:
    """Describe a job of one file."""
    return {"files": [FILE], "params": {"id_generator": "deterministic", "sid": sid, **params}}


@dataclass
class Place:
    """A server, and the hub's client of it."""

    authority: Authority
    fake: FakeFts
    fts: Fts
    port: int
    listening: Any


def client(authority: Authority, port: int, papers: Papers, reactor: Any) -> Fts:
    """Give a client; who asks for one has to stop it."""
    clock = HubClock()
    clock.set(int(time.time() * 1000), 0)
    trust = papers.ca or authority.pem
    policy = partial(ClientPolicy, papers.shown, papers.proxy or papers.key, trust)
    wire = Wire(f"https://localhost:{port}", papers, policy, clock, reactor, ReactorPool("fts", 1, reactor))
    fts = Fts(wire, reactor)
    fts.start()
    return fts


def opened(authority: Authority, reactor: Any) -> Place:
    """Give a server that has nothing yet, and a client with a certificate."""
    fake = FakeFts()
    certificate, key = authority.issue("server", server=True)
    listening = listen(fake, certificate, key, authority.pem, reactor)
    port = listening.getHost().port
    return Place(authority, fake, client(authority, port, Papers(*authority.issue("hub")), reactor), port, listening)


async def closed(place: Place) -> None:
    """Stop both."""
    await place.fts.stop()
    await place.listening.stopListening()
