"""The composition root: every part is built here by a plain call, started in order and stopped in reverse."""

from __future__ import annotations

import errno
import gc
import getpass
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub import __version__
from datahub.assembly import Capability, Chore, House, carts, jobs, messages, milliseconds, sandboxes, transfers
from datahub.auth.gate import Gate
from datahub.auth.tokens import Tokens
from datahub.config import Config, ListenSection, LogSection
from datahub.errors import StartError, Unavailable
from datahub.events.feed import Feed
from datahub.events.tables import forget as forget_events
from datahub.files.reserve import Reserve
from datahub.health.events import EventRoutes
from datahub.health.routes import Check, Health
from datahub.kit.aio import start
from datahub.kit.clock import HubClock, make_steady
from datahub.kit.locks import FileLock
from datahub.kit.logs import AccessLog, open_sink
from datahub.kit.services import Repeating, Sequence
from datahub.kit.systemd import Notifier
from datahub.kit.threads import ReactorPool
from datahub.queues import Queue
from datahub.queues.amqp import AmqpQueue
from datahub.queues.embedded import EmbeddedQueue
from datahub.store import Store
from datahub.store.engine import is_sqlite
from datahub.store.opening import open_database
from datahub.store.requests import forget as forget_keys
from datahub.store.server import ServerStore
from datahub.store.sqlite import SqliteStore
from datahub.web.app import App
from datahub.web.site import Listeners, Root
from datahub.work.entering import hold_name, take_name
from datahub.work.lane import Floor, Lane
from datahub.work.presence import Hub as Member
from datahub.work.sweeper import Sweeper

__all__ = ["Hub", "make_hub"]

log = Logger()

DISK_THREADS = 16
SERVING_THREADS = 16
STOP_PATIENCE = 30.0
FORGET_EVERY = 3600.0
CAPABILITIES: Mapping[str, Callable[[House], Capability]] = {
    "transfers": transfers.build,
    "carts": carts.build,
    "jobs": jobs.build,
    "messages": messages.build,
    "sandbox": sandboxes.build,
}


def make_hub(config: Config, reactor: Any) -> IService:
    """The daemon for ``config``; nothing is opened before its ``startService``."""
    hub: IService = Hub(config, reactor)
    return hub


class Hub(Service):
    """The daemon. All that can refuse at start does so in `startService`, which blocks until it is clear."""

    name = "datahub"

    def __init__(self, config: Config, reactor: Any) -> None:
        self._config = config
        self._reactor = reactor
        self._parts = Sequence(reactor, config.hub.drain + config.jobs.grace + STOP_PATIENCE)
        self._locks: list[FileLock] = []
        self._notifier = Notifier(os.environ)
        self.listeners: Listeners | None = None

    def startService(self) -> None:
        """Start everything; raises `StartError`, with one line that says what to do."""
        make_steady(self._reactor)
        try:
            state = _prepare_state(self._config.hub.state)
            self._locks.append(hold_name(state, self._config.hub.node))
            clock = HubClock()
            member = self._enter(clock)
            self._build(member, clock)
        except BaseException:
            start(self._abandon())
            raise
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's has no types
        self._reactor.callWhenRunning(self._announce_ready)

    def stopService(self) -> Deferred[None]:
        """Stop everything in reverse order."""
        self._notifier.stopping()
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's has no types
        return start(self._stop())

    async def _abandon(self) -> None:
        """Leave nothing of a start that failed half-way."""
        if self.listeners is not None:
            await self.listeners.stop(0)
        await self._stop()

    async def _stop(self) -> None:
        await self._parts.stop()
        for lock in self._locks:
            lock.release()
        log.info("datahub has stopped")

    def _announce_ready(self) -> None:
        # What is there now stays. Looking through all of it for garbage, again and again, would take 100 ms a time,
        # in which nobody is served.
        gc.collect()
        gc.freeze()
        # With hundreds of requests under way a full collection takes 15 to 50 ms: one for each 700,000 new objects.
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, 100)
        log.info("datahub {version} is ready as node {node}", version=__version__, node=self._config.hub.node)
        self._notifier.ready()

    def _enter(self, clock: HubClock) -> Member:
        """Open the database for the time of the start, and take our name in it."""
        section, state, node = self._config.database, self._config.hub.state, self._config.hub.node
        engine, lock = open_database(section.url, section.wait, time.sleep)
        if lock is not None:
            self._locks.append(lock)
        member = take_name(engine, state, node, __version__, clock, time.sleep, alone=is_sqlite(section.url))
        self._declare(engine)
        engine.dispose()
        return member

    def _declare(self, engine: Engine) -> None:
        with engine.begin() as connection:
            for each in (transfers, carts, jobs, messages):
                each.declare(connection, self._config)

    def _build(self, member: Member, clock: HubClock) -> None:
        """Build the parts and start them, each standing on those before it."""
        config, reactor, begin = self._config, self._reactor, self._parts.start
        store = _make_store(config.database.url, reactor)
        disk = ReactorPool("disk", DISK_THREADS, reactor)
        serve = ReactorPool("serve", SERVING_THREADS, reactor)
        queue = _make_queue(config.queue.url, reactor)
        reserve = Reserve(config.hub.state, config.hub.min_free, serve, reactor)
        access_log = _make_access_log(config.log, clock)
        feed = Feed(store, reactor)
        floor = Floor(store, queue, clock, reactor, member.owner, partial(_changed, feed, queue))
        # Others hear of a commit at once; without that they would look each second.
        queue.hear("changed", lambda _: feed.wake())
        house = House(config, reactor, clock, store, disk, serve, reserve, feed, floor)
        built = {name: build(house) for name, build in CAPABILITIES.items() if config.uses(name)}

        lanes = []
        for capability in (built[name] for name in config.hub.workers):
            for lane in (Lane(step, floor) for step in capability.steps):
                queue.listen(lane.name, lane)
                capability.take(lane)
                lanes.append(lane)
        sweeper = Sweeper(floor, member, lanes, alone=is_sqlite(config.database.url))

        vital = {"database": partial(_check_store, store), "disk": partial(_check_reserve, reserve)}
        others: dict[str, Check] = {"queue": queue.check}
        for each in built.values():
            others.update(each.checks)
        health = Health(config.hub.node, reactor.seconds(), vital, others, self._draining, reactor)
        summaries = {name: each.summarise for name, each in built.items() if each.summarise is not None}
        events = EventRoutes(store, feed, summaries)
        self.listeners = self._build_listeners([health.app, events.app], built, access_log)

        # Bound before anything runs: a busy port is to end the daemon, not to interrupt it.
        self.listeners.start()
        begin("store", store)
        begin("disk threads", disk)
        begin("serving threads", serve)
        begin("access log", _Opened(access_log, reactor))
        begin("free space", reserve)
        begin("queue", queue)
        begin("events", feed)
        for capability in built.values():
            for name, part in capability.parts.items():
                begin(name, part)
        begin("work", sweeper)
        for chore in (*self._chores(store, clock), *(each for one in built.values() for each in one.chores)):
            begin(chore.name, Repeating(chore.name, chore.every, chore.work, reactor))
        self._parts.add("listeners", _Drained(self.listeners, config.hub.drain))

    def _chores(self, store: Store, clock: HubClock) -> list[Chore]:
        """What is to be done again and again for all capabilities."""
        hub = self._config.hub
        found = [
            Chore("old events", FORGET_EVERY, partial(_forget_events, store, clock, milliseconds(hub.keep_events))),
            Chore("old keys", FORGET_EVERY, partial(_forget_keys, store, clock, milliseconds(hub.idempotency))),
        ]
        if isinstance(store, SqliteStore):
            # Servers look after their files themselves.
            found.append(Chore("free pages", FORGET_EVERY, store.give_back_space))
        return found

    def _build_listeners(self, own: Iterable[App], built: Mapping[str, Capability], access_log: AccessLog) -> Listeners:
        config = self._config

        def root(section: ListenSection) -> Root:
            offered = [built[service] for service in section.services]
            rest = [each.rest for each in offered if each.rest is not None]
            return Root([*own, *(each.app for each in offered)], next(iter(rest), None))

        gate = Gate(Tokens(config.auth.tokens))
        return Listeners(
            config.listen,
            root,
            gate,
            config.limits,
            config.hub.node,
            access_log,
            self._reactor,
            config.auth.anonymous,
            config.hub.url,
        )

    def _draining(self) -> bool:
        return self.listeners is not None and self.listeners.draining


class _Opened:
    """The access log as a part."""

    def __init__(self, access_log: AccessLog, reactor: IReactorTime) -> None:
        self._access_log = access_log
        self._reactor = reactor

    def start(self) -> None:
        try:
            self._access_log.start(self._reactor)
        except OSError as error:
            raise StartError(
                f"the access log {error.filename} can't be opened: {error.strerror}; see [log] directory"
            ) from error

    async def stop(self) -> None:
        self._access_log.stop()


class _Drained:
    """The listeners as a part that is started already; its stop waits for requests under way."""

    def __init__(self, listeners: Listeners, drain: float) -> None:
        self._listeners = listeners
        self._drain = drain

    def start(self) -> None: ...

    async def stop(self) -> None:
        await self._listeners.stop(self._drain)


def _prepare_state(state: Path) -> Path:
    try:
        state.mkdir(mode=0o750, parents=True, exist_ok=True)
        if not os.access(state, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StartError(
            f"the state folder {state} can't be written ({error.strerror}): make it writable for "
            f"user {getpass.getuser()}, or name another in [hub] state"
        ) from error
    return state


def _make_store(url: str, reactor: Any) -> Store:
    return SqliteStore(url, reactor) if is_sqlite(url) else ServerStore(url, reactor)


def _make_queue(url: str, reactor: Any) -> Queue:
    return EmbeddedQueue(reactor) if url == "embedded:" else AmqpQueue(url, reactor)


def _make_access_log(section: LogSection, clock: HubClock) -> AccessLog:
    path = section.directory and section.directory / "access.log"
    return AccessLog(partial(open_sink, path, section.max_bytes, section.backups), clock.wall, section.format)


def _changed(feed: Feed, queue: Queue) -> None:
    feed.wake()
    queue.signal("changed")


async def _check_store(store: Store) -> str | None:
    try:
        await store.read("check", lambda connection: connection.execute(text("SELECT 1")).scalar())
    except Unavailable as error:
        return str(error)
    return None


async def _check_reserve(reserve: Reserve) -> str | None:
    return reserve.low()


async def _forget_keys(store: Store, clock: HubClock, keep: int) -> None:
    await store.run("forget old keys", partial(forget_keys, before=clock.wall() - keep))


async def _forget_events(store: Store, clock: HubClock, keep: int) -> None:
    now = clock.wall()
    while await store.run("forget old events", partial(forget_events, before=now - keep, now=now)):
        pass
