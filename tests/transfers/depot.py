"""Transfers from the submission to their end, in memory: time, database, archive and mover are in the test's hands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from datahub.archive import Product
from datahub.auth import Caller
from datahub.errors import InvalidRequest, NoSpace
from datahub.events.feed import Feed
from datahub.kit.aio import start
from datahub.kit.clock import HubClock
from datahub.transfers import tables
from datahub.transfers.endings import Endings
from datahub.transfers.following import FOLLOW, declare_servers
from datahub.transfers.handing import Handing
from datahub.transfers.model import Place, Submission, Transfer
from datahub.transfers.movers import CopiedFile, Delivery, Filed, Leftover, Order
from datahub.transfers.pipeline import FTS, LANES, MOVE, STAGE, Limits, Pipeline
from datahub.transfers.reports import Reports
from datahub.transfers.routes import TransferRoutes
from datahub.transfers.service import Rules, Seen, Transfers
from datahub.transfers.stagers import Stager
from datahub.transfers.stagers.archive import ArchiveStager
from datahub.work import ledger, sweeper
from datahub.work.lane import Floor, Lane
from tests.inline import Announcements, InlineStore
from tests.web.memory import LIMITS, Client, make_site

__all__ = ["DELIVERY", "ME", "PRODUCT", "START", "Depot", "caller"]

ME = "hub1:aa"
START = 1_772_357_400_250
KEEP = 1000 * 86_400_000
PRODUCT = Product("005", "005", Path("/archive/005"), False, 1, 1000)
DELIVERY = Delivery("file:///d/alice/005", ".datahub-x", 1, 2, 1, 1000, {"sha256": "ab" * 32})


def caller(name: str = "alice", *scopes: str) -> Caller:
    """Somebody with a token who may read and write, or with the scopes given."""
    return Caller(name, "token", frozenset(scopes or ("read", "write")), "127.0.0.1")


class Archive:
    """Finds each product, or does what a test says."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[str] = []

    async def locate(self, product_id: str) -> Product:
        self.asked.append(product_id)
        found: Product = await outcome(self.answers, replace(PRODUCT, id=product_id))
        return found

    def walk(self, product: Product) -> Any:
        raise NotImplementedError

    def open(self, product: Product, entry: Any) -> int:
        raise NotImplementedError


async def outcome(answers: list[Any], usual: Any) -> Any:
    """Give what comes next of ``answers``: an error is raised, a Deferred waited for."""
    answer = answers.pop(0) if answers else usual
    if isinstance(answer, Exception):
        raise answer
    return await answer if isinstance(answer, Deferred) else answer


class Mover:
    """Writes down what it is told to do; ``answers`` holds what comes of it, by the verb."""

    fetches = False

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {"copy": [], "publish": [], "discard": []}
        self.calls: list[str] = []
        self.orders: list[Order] = []
        self.progress = 0
        self.files: list[CopiedFile] = []
        self.published = False
        self.lying: list[Leftover] = []
        self.claimed: str | None = None

    def check(self, destination: str) -> None:
        if not destination.startswith("file:///d/"):
            raise InvalidRequest(f"destination_path {destination!r} is not below /d", field="destination_path")

    def claims(self, order: Order, name: str) -> str | None:
        return self.claimed

    async def copy(self, order: Order, product: Product, progress: Callable[[int], None], filed: Filed) -> Delivery:
        for each in self.files:
            filed(each)
        if self.progress:
            progress(self.progress)
        delivery: Delivery = await self._do("copy", order, DELIVERY)
        return delivery

    async def publish(self, order: Order, delivery: Delivery) -> None:
        assert delivery == DELIVERY
        await self._do("publish", order, None)

    async def discard(self, order: Order) -> None:
        await self._do("discard", order, None)

    async def is_published(self, order: Order, delivery: Delivery) -> bool:
        return self.published

    async def leftovers(self, before: float) -> list[Leftover]:
        return list(self.lying)

    async def remove(self, leftover: Leftover) -> None:
        self.lying.remove(leftover)

    async def _do(self, verb: str, order: Order, usual: Any) -> Any:
        self.calls.append(verb)
        self.orders.append(order)
        return await outcome(self.answers[verb], usual)


class Depot:
    """The rooms of transfers, and time for them."""

    def __init__(
        self,
        *,
        shared: bool = False,
        retry_for: float = 3600,
        staging_timeout: float = 60,
        stager: Stager | None = None,
        agents: Callable[[HubClock], dict[str, Any]] | None = None,
        moving: int = 2,
    ) -> None:
        self.clock = Clock()
        self.hub_clock = HubClock(self.clock.seconds)
        self.hub_clock.set(START, 0)
        self.store = InlineStore()
        self.queue = Announcements()
        self.archive = Archive()
        self.mover = Mover()
        self.movers: dict[str, Any] = {"file": self.mover}
        self.full = ""
        self.agents = agents(self.hub_clock) if agents else {}
        limits = Limits(2, moving, staging_timeout, retry_for, handed=frozenset(self.agents))
        floor = Floor(self.store, self.queue, self.hub_clock, self.clock, ME)
        stager = stager or ArchiveStager(self.archive)
        self.handing = Handing(floor, self.agents, Endings(limits, self.hub_clock)) if agents else None
        self.pipeline = Pipeline(self.store, stager, self.movers, limits, self.hub_clock, self.clock, ME, self.handing)
        self.reports = Reports(floor, limits)
        self.lanes = {step.lane: Lane(step, floor) for step in self.pipeline.steps()}
        self.feed = Feed(self.store, self.clock)
        rules = Rules(shared, limits, KEEP)
        places: Any = {**self.movers, **self.agents} if agents else self.movers
        self.verbs = Transfers(floor, self.feed, places, self._admit, self.pipeline.moved, rules)
        servers = {scheme: agent.server.url for scheme, agent in self.agents.items()}
        self.store.now(partial(declare_servers, urls=servers))
        for name, lane in self.lanes.items():
            self.store.now(partial(ledger.declare, name=name, slots=None))
            lane.open()

    def _admit(self) -> None:
        if self.full:
            raise NoSpace(self.full, retry_after=77)

    def client(self, **more: Any) -> Client:
        """Give a client before the routes."""
        limits = replace(LIMITS, body=100_000)
        return Client(
            make_site([TransferRoutes(self.verbs, self.reports).app], limits=limits, clock=self.clock, **more)
        )

    def submit(self, *, by: Caller | None = None, key: str | None = None, **more: Any) -> str:
        """Submit a product and give its id."""
        fields = {"product_id": "005", "destination_path": "file:///d/alice", **more}
        submitting: Any = start(self.verbs.submit(by or caller(), Submission(**fields), key))
        return str(submitting.result)

    def look(self, *lanes: str) -> None:
        """Let lanes look, all of them in order if none is named."""
        for name in lanes or LANES:
            start(self.lanes[name].look())
            self.clock.advance(0)

    def stage(self) -> None:
        """Let the staging lane look only."""
        self.look(STAGE)

    def move(self) -> None:
        """Let the lanes look only in which transfers are moved, here or by FTS."""
        self.look(MOVE, FTS)

    def follow(self) -> None:
        """Let the time go by until some job at an FTS server is due, and let it be asked about."""
        rows = self.store.now(lambda c: c.execute(text("SELECT min(due) AS due FROM fts_job")).all())
        rows += self.store.now(lambda c: c.execute(text(f"SELECT due FROM work WHERE lane = '{FOLLOW}'")).all())
        wait = max((row.due or 0) - self.hub_clock.now() for row in rows)
        self.clock.advance(max(0, wait) / 1000)
        self.store.now(partial(sweeper._wake, now=self.hub_clock.now() + 1))
        self.look(FOLLOW)

    def transfer(self, number: str) -> Transfer:
        """Read the record."""
        found: Transfer = self.store.now(partial(tables.find, number=number))
        return found

    def place(self, number: str, *lanes: str) -> Place | None:
        """Read the place in the ledger, or in some lanes of it."""
        found: Place | None = self.store.now(lambda c: tables.find_place(c, lanes or LANES, number))
        return found

    def seen(self, number: str) -> Seen:
        """Look as the submitter does."""
        finding: Any = start(self.verbs.find(caller(), number))
        found: Seen = finding.result
        return found

    def wait_for_retry(self, number: str, *lanes: str) -> int:
        """Let the time go by until the transfer is due, wake it, and give how long it took, in milliseconds."""
        place = self.place(number, *lanes)
        assert place is not None
        assert place.due is not None
        pause = place.due - self.hub_clock.now()
        self.clock.advance(pause / 1000)
        self.store.now(partial(sweeper._wake, now=self.hub_clock.now() + 1))
        return pause

    def interrupt(self, number: str) -> None:
        """Do to an item that is cancelled what the sweeper does."""
        for lane in self.lanes.values():
            for each, item in list(lane.running.items()):
                if item.subject == number:
                    lane.interrupt(each)

    def end(self) -> None:
        """Stop what runs and let go of the database."""
        for lane in self.lanes.values():
            closing = start(lane.close())
            self.clock.advance(0)
            assert closing.called
        assert self.clock.getDelayedCalls() == []
        start(self.store.stop())
