"""Transfers to an FTS server in memory: what it answers, and when, is in the test's hands."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import treq
from sqlalchemy import text
from treq.client import HTTPClient
from treq.testing import RequestTraversalAgent, _SynchronousProducer

from datahub.archive import Entry, Product
from datahub.kit.clock import HubClock
from datahub.kit.threads import InlinePool
from datahub.transfers.movers.fts import Asked, Fts
from datahub.transfers.movers.fts_jobs import Agent
from datahub.transfers.movers.proxies import Papers
from datahub.work import presence
from tests.fakes.fts3 import Delegated, FakeFts
from tests.transfers.depot import ME, Depot

__all__ = ["TARGET", "TIMEOUT", "FtsDepot"]

TARGET = "gsiftp://there.example.org/home/alice/"
HUB = "/CN=hub"
TIMEOUT = 7 * 86_400


class KnownFts(FakeFts):
    """The server, where everybody is the hub, by whatever name."""

    name = HUB

    def _who(self, request: Any) -> Any:
        return self.name, None


class InlineWire:
    """The credentials of the client in memory, which last."""

    url = "https://fts:8446"
    papers = Papers(Path("hub.pem"), Path("hub.key"), None, None)
    until = float("inf")

    def __init__(self, clock: HubClock) -> None:
        self.now = lambda: clock.wall() / 1000

    async def session(self) -> InlineWire:
        return self

    def seconds(self) -> float:
        return self.now()

    def callLater(self, _: float, call: Any, *values: Any) -> None:  # noqa: N802 - Twisted's
        call(*values)


class InlineFts(Fts):
    """The client, in memory; ``faults`` are raised in place of answers, before or ``after`` the server has heard."""

    def __init__(self, fake: FakeFts, clock: HubClock) -> None:
        wire = InlineWire(clock)
        super().__init__(wire, wire)  # type: ignore[arg-type]
        self.agent = RequestTraversalAgent(fake.app.resource())
        self.http = HTTPClient(self.agent, data_to_body_producer=_SynchronousProducer)
        self.faults: list[Any] = []
        self.after: list[Any] = []

    async def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Asked:
        await outcome(self.faults)
        asking = self.http.request(method, f"https://fts:8446{path}", data=body)
        self.agent.flush()
        response = await asking
        reading = treq.content(response)
        self.agent.flush()
        answer = Asked(response.code, await reading)
        if method == "POST":
            await outcome(self.after)
        return answer


async def outcome(answers: list[Any]) -> None:
    answer = answers.pop(0) if answers else None
    if isinstance(answer, Exception):
        raise answer
    if answer is not None:
        await answer


class Archive:
    """Lists each product as one file, or a tree of two; names with a slash at their end are folders."""

    def __init__(self) -> None:
        self.names = ["a b", "c"]
        self.size = 1000

    def walk(self, product: Product) -> Any:
        for name in self.names if product.is_directory else ("",):
            yield Entry(name.rstrip("/"), self.size, 0, 1, 1, is_directory=name.endswith("/"))

    def open(self, product: Product, entry: Any) -> int:
        return os.open("/dev/null", os.O_RDONLY)


class FtsDepot(Depot):
    """Transfers to an FTS server in memory."""

    def __init__(self, **more: Any) -> None:
        self.fake = KnownFts()
        self.tree = Archive()

        def agents(clock: HubClock) -> dict[str, Any]:
            self.fake.now = lambda: clock.wall() / 1000
            self.fts = InlineFts(self.fake, clock)
            source = "gsiftp://hub.example.org"
            return {"gsiftp": Agent(self.fts, self.tree, InlinePool(), source, TIMEOUT)}  # type: ignore[arg-type]

        super().__init__(agents=agents, **more)
        number = self.fake._delegation(None)
        self.fake.delegations[number] = Delegated(until=self.fake.now() + 10**9)

    def handed(self, **more: Any) -> str:
        """A transfer that is at FTS."""
        number = self.submit(**{"destination_path": TARGET, **more})
        self.stage()
        self.move()
        return number

    def handed_tree(self, **more: Any) -> str:
        """A folder that is at FTS, and is found again as often as is wanted."""
        names = [each for each in self.tree.names if not each.endswith("/")]
        size = self.tree.size * len(names)
        product = Product("005", "005", Path("/archive/005"), is_directory=True, files=len(names), size=size)
        self.archive.answers = [product] * 9
        return self.handed(**more)

    def job(self, number: str) -> str:
        """The id of the job of a transfer."""
        return str(self.transfer(number).fts_jobid)

    def copies(self) -> Counter[str]:
        """How often each destination was written."""
        return Counter({target: len(jobs) for target, jobs in self.fake.copied.items()})

    def flights(self) -> int:
        """How many jobs are followed."""
        return len(self.store.now(lambda c: c.execute(text("SELECT job FROM fts_job")).all()))

    def crash(self) -> None:
        """Lose the hub that has the work, and start again."""
        for lane in self.lanes.values():
            lane.halt()
        self.store.now(partial(presence.take_back, owner=ME))
        self.clock.advance(1)
        for lane in self.lanes.values():
            lane.open()
