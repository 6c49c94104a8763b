"""Carts from the request to the last byte, in memory but for the files: time, database and archive are the test's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar, cast

from sqlalchemy import func, select
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from datahub.archive.local import LocalArchive
from datahub.assembly import House, carts
from datahub.carts import tables
from datahub.carts.model import Cart, CartFile
from datahub.carts.pipeline import LANES
from datahub.carts.routes import CartRoutes
from datahub.config import CartsSection
from datahub.errors import NoSpace
from datahub.events.feed import Feed
from datahub.files.reserve import Reserve
from datahub.kit.aio import start
from datahub.kit.clock import HubClock
from datahub.kit.threads import InlinePool
from datahub.web.root import Root
from datahub.work import sweeper
from datahub.work.lane import Floor, Lane
from datahub.work.tables import work
from tests.inline import Announcements, InlineStore
from tests.web.memory import LIMITS, Client, make_site

__all__ = ["ME", "START", "Yard", "section"]

ME = "hub1:aa"
START = 1_772_357_400_250


def section(folder: Path, **keys: Any) -> CartsSection:
    """The defaults, with copies in ``folder``."""
    return CartsSection(
        **{
            "path": folder / "carts",
            "space": 10**11,
            "evict_after": 3600.0,
            "keep": 400 * 86400.0,
            "expire": 30 * 86400.0,
            "archive_concurrent": 2,
            "retry_for": 86400.0,
            "staging_timeout": 2 * 86400.0,
            "on_delete": "finish",
            "old_clients": False,
            "body_limit": 64 * 10**6,
            **keys,
        }
    )


P = ParamSpec("P")
T = TypeVar("T")


class BusyPool(InlinePool):
    """A pool whose threads have something else to do while it is ``busy``."""

    busy = False

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self.busy:
            await Deferred()
        return await super().run(work, *args, **kwargs)


class Yard:
    """The rooms of carts before ``source``, by default the files in ``archive``.

    ``beside`` is another hub with the same database, time and folder, that hears this one's signals.
    """

    def __init__(
        self, folder: Path, source: Any = None, *, url: str | None = None, beside: Yard | None = None, **keys: Any
    ) -> None:
        self.folder = folder
        self.archive = folder / "archive"
        self.archive.mkdir(exist_ok=True)
        self.clock: Clock = beside.clock if beside else Clock()
        self.hub_clock = HubClock(self.clock.seconds)
        self.hub_clock.set(START, 0)
        self.store: InlineStore = beside.store if beside else InlineStore()
        self.queue = Announcements()
        if beside:
            self.queue.beside(beside.queue)
        self.full = ""
        self.disk = pool = BusyPool()
        floor = Floor(self.store, self.queue, self.hub_clock, self.clock, "hub2:bb" if beside else ME)
        self.feed = Feed(self.store, self.clock)
        chosen = source or LocalArchive(self.archive, pool)
        self.section = section(folder, **keys)
        hub = SimpleNamespace(url=url)
        config: Any = SimpleNamespace(hub=hub, carts=self.section, auth=SimpleNamespace(shared=()))
        house = House(
            config=config,
            reactor=self.clock,
            clock=self.hub_clock,
            store=self.store,
            disk=pool,
            serve=InlinePool(),
            reserve=cast(Reserve, SimpleNamespace(admit=self._admit)),
            feed=self.feed,
            floor=floor,
        )
        self.built = carts.build_on(house, chosen)
        self.routes = cast(CartRoutes, self.built.app._instance)
        self.verbs = self.routes._carts
        self.lanes = {step.lane: Lane(step, floor) for step in self.built.steps}
        self.store.now(partial(carts.declare, config=config))
        for lane in self.lanes.values():
            lane.open()
        self.client = self.at()

    def _admit(self) -> None:
        if self.full:
            raise NoSpace(self.full, retry_after=77)

    def at(self, **more: Any) -> Client:
        """A client before the routes."""
        site = make_site([self.built.app], limits=replace(LIMITS, body=100_000), clock=self.clock, **more)
        root = Root([self.built.app], self.built.rest)
        site.resource = root
        site.largest_body = max(site.largest_body, root.largest_body)
        return Client(site)

    def put(self, name: str, data: bytes = b"") -> Path:
        """Put a file into the archive."""
        path = self.archive / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    async def post(self, uid: str, files: Mapping[str, Any] | list[Any], *, headers: Any = None, **more: Any) -> Any:
        """Ask for a cart: paths in it and ids, or entries as they are."""
        entries = [{"path": path, "id": name} for path, name in files.items()] if isinstance(files, dict) else files
        body = json.dumps({"fileids": entries, **more}).encode()
        return await self.client.ask("POST", f"/{uid}", data=body, headers=headers or {})

    async def make(self, uid: str, files: Mapping[str, bytes], **more: Any) -> None:
        """Put files into the archive, ask for a cart of them, and let it become ready."""
        for path, data in files.items():
            self.put(path, data)
        assert (await self.post(uid, {path: path for path in files}, **more)).status == 201
        self.work()

    def look(self, *lanes: str) -> None:
        """Let lanes look, all of them in order if none is named."""
        for name in lanes or LANES:
            start(self.lanes[name].look())
            self.clock.advance(0)

    def work(self, rounds: int = 3) -> None:
        """Let all lanes look until nothing is ready any more."""
        for _ in range(rounds):
            self.look()

    def pass_time(self, seconds: float) -> None:
        """Let time go by, from one moment at which something is due to the next."""
        end = self.clock.seconds() + seconds
        self.work(2)
        while True:
            due = self.store.now(lambda c: c.execute(select(func.min(work.c.due))).scalar())
            pause = end - self.clock.seconds() if due is None else (due + 1 - self.hub_clock.now()) / 1000
            if due is None or self.clock.seconds() + pause > end:
                self.clock.advance(max(0.0, end - self.clock.seconds()))
                return
            self.clock.advance(max(0.001, pause))
            self.store.now(partial(sweeper._wake, now=self.hub_clock.now() + 1))
            self.work(2)

    def chore(self, name: str) -> None:
        """Do what is done again and again."""
        (chore,) = [each.work for each in self.built.chores if each.name == name]
        done: list[Any] = []
        start(_awaited(chore)).addBoth(done.append)
        assert done == [None]

    def cart(self, uid: str) -> Cart:
        """Read the record."""
        found: Cart = self.store.now(partial(tables.find_by_uid, uid=uid))
        return found

    def files(self, uid: str) -> list[CartFile]:
        """Read the files of a cart."""
        found: list[CartFile] = self.store.now(partial(tables.window, number=self.cart(uid).id, first=0, count=10**6))
        return found

    def end(self) -> None:
        """Stop what runs and let go of the database."""
        for lane in self.lanes.values():
            closing = start(lane.close())
            self.clock.advance(0)
            assert closing.called
        start(self.store.stop())


async def _awaited(work: Callable[[], Any]) -> Any:
    return await work()
