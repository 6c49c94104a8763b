"""The composition root: every part is built here by a plain call, started in order and stopped in reverse."""

from __future__ import annotations

import errno
import gc
import getpass
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from sqlalchemy import Engine, text
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub import __version__
from datahub.archive.local import LocalArchive
from datahub.auth.gate import Gate
from datahub.auth.tokens import Tokens
from datahub.config import Config, ListenSection, LogSection, MoverSection, TransfersSection
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
from datahub.kit.tls import ClientPolicy
from datahub.messages.memory import Memory
from datahub.messages.routes import MessageRoutes
from datahub.messages.service import Messages
from datahub.messages.stores import MessageStore
from datahub.messages.stores.database import DatabaseMessages, check_packets
from datahub.queues import Queue
from datahub.queues.amqp import AmqpQueue
from datahub.queues.embedded import EmbeddedQueue
from datahub.sandboxes.decoding import Decoder
from datahub.sandboxes.following import Pace, Watches
from datahub.sandboxes.masters import Masters
from datahub.sandboxes.mesos import Mesos
from datahub.sandboxes.routes import SandboxRoutes
from datahub.sandboxes.service import Sandboxes
from datahub.sandboxes.wire import TimeLimits, Wire, basic, trust
from datahub.store import Store
from datahub.store.engine import is_sqlite
from datahub.store.opening import open_database
from datahub.store.requests import forget as forget_keys
from datahub.store.server import ServerStore
from datahub.store.sqlite import SqliteStore
from datahub.transfers.endings import Endings
from datahub.transfers.handing import Handing, declare_servers
from datahub.transfers.housekeeping import Housekeeping
from datahub.transfers.movers import Mover
from datahub.transfers.movers.carriers import Carriers
from datahub.transfers.movers.fts import Fts
from datahub.transfers.movers.fts_jobs import Agent as FtsAgent
from datahub.transfers.movers.gfal import COMMAND as GFAL
from datahub.transfers.movers.gfal import GfalMover
from datahub.transfers.movers.local import LocalMover
from datahub.transfers.movers.proxies import Papers
from datahub.transfers.pipeline import MOVE, STAGE, Limits, Pipeline
from datahub.transfers.reports import Reports
from datahub.transfers.routes import TransferRoutes
from datahub.transfers.service import Rules, Transfers
from datahub.transfers.stagers import Stager
from datahub.transfers.stagers.archive import ArchiveStager
from datahub.transfers.stagers.callback import Address, CallbackStager, Shelf, make_client
from datahub.transfers.stagers.callback import Patience as StagerPatience
from datahub.web.app import App
from datahub.web.site import Listeners, Root
from datahub.work import ledger
from datahub.work.entering import hold_name, take_name
from datahub.work.lane import Floor, Lane
from datahub.work.presence import Hub as Member
from datahub.work.sweeper import Sweeper

__all__ = ["Hub", "make_hub"]

log = Logger()

DISK_THREADS = 16
STOP_PATIENCE = 30.0
FORGET_EVERY = 3600.0
DEADLINES_EVERY = 2.0
DATABASE = "database:"
MESOS_LIMITS = TimeLimits()


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
        self._parts = Sequence(reactor, config.hub.drain + STOP_PATIENCE)
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
            ledger.declare(connection, STAGE, self._config.transfers.staging_concurrent)
            ledger.declare(connection, MOVE, self._config.transfers.moving_concurrent)
            declare_servers(connection, _fts_urls(self._config.transfers))
            if self._config.serves("messages") and self._config.messages.url == DATABASE:
                check_packets(connection, self._config.messages.limit)

    def _build(self, member: Member, clock: HubClock) -> None:
        """Build the parts and start them, each standing on those before it."""
        config, reactor, begin = self._config, self._reactor, self._parts.start
        store = _make_store(config.database.url, reactor)
        disk = ReactorPool("disk", DISK_THREADS, reactor)
        queue = _make_queue(config.queue.url, reactor)
        reserve = Reserve(config.hub.state, config.hub.min_free, disk, reactor)
        access_log = _make_access_log(config.log, clock)
        feed = Feed(store, reactor)
        floor = Floor(store, queue, clock, reactor, member.owner, feed.wake)

        pipeline, transfers = self._build_transfers(floor, feed, disk, reserve)
        lanes = [Lane(step, floor) for step in pipeline.steps()] if "transfers" in config.hub.workers else []
        for lane in lanes:
            queue.listen(lane.name, lane)
        sweeper = Sweeper(floor, member, lanes, alone=is_sqlite(config.database.url))

        kept = _make_message_store(config.messages.url, store, reactor)
        messages = self._build_messages(kept, disk, reserve)
        wire, mesos = self._build_mesos()
        sandboxes = Sandboxes(mesos, Watches(Pace(), reactor), config.sandbox.limit)

        vital = {"database": partial(_check_store, store), "disk": partial(_check_reserve, reserve)}
        others: dict[str, Check] = {"queue": queue.check, "messages": messages.check}
        if config.sandbox.masters:
            others["mesos"] = mesos.check
        health = Health(config.hub.node, reactor.seconds(), vital, others, self._draining, reactor)
        reports = Reports(floor, pipeline.cost)
        apps = {
            "transfers": TransferRoutes(transfers, reports).app,
            "sandbox": SandboxRoutes(sandboxes, MESOS_LIMITS.stall).app,
            "messages": MessageRoutes(messages).app,
        }
        events = EventRoutes(store, feed, {"transfers": transfers.summary}, reactor)
        self.listeners = self._build_listeners([health.app, events.app], apps, access_log)

        # Bound before anything runs: a busy port is to end the daemon, not to interrupt it.
        self.listeners.start()
        begin("store", store)
        begin("disk threads", disk)
        begin("access log", _Opened(access_log, reactor))
        begin("free space", reserve)
        begin("message store", kept)
        begin("queue", queue)
        begin("events", feed)
        self._parts.add("Mesos", wire)
        begin("work", sweeper)
        for name, every, chore in self._chores(store, clock):
            begin(name, Repeating(name, every, chore, reactor))
        self._parts.add("listeners", _Drained(self.listeners, config.hub.drain))

    def _chores(self, store: Store, clock: HubClock) -> list[tuple[str, float, Callable[[], Awaitable[object]]]]:
        """What is to be done again and again: its name, how often in seconds, and how."""
        config = self._config
        house = Housekeeping(store, clock, milliseconds(config.transfers.keep))
        return [
            ("deadlines", DEADLINES_EVERY, house.end_overdue),
            ("old transfers", FORGET_EVERY, house.forget_old),
            ("old events", FORGET_EVERY, partial(_forget_events, store, clock, milliseconds(config.hub.keep_events))),
            ("old keys", FORGET_EVERY, partial(_forget_keys, store, clock, milliseconds(config.hub.idempotency))),
        ]

    def _build_transfers(
        self, floor: Floor, feed: Feed, disk: ReactorPool, reserve: Reserve
    ) -> tuple[Pipeline, Transfers]:
        config, section = self._config, self._config.transfers
        source = _make_source(config, disk)
        stager = _make_stager(section, source, floor.reactor)
        agents = self._make_agents(disk, source, floor)
        movers = {
            scheme: self._make_mover(scheme, url, disk, source, floor)
            for scheme, url in section.movers.items()
            if scheme not in agents
        }
        limits = Limits(
            section.staging_concurrent,
            section.moving_concurrent,
            section.staging_timeout,
            section.retry_for,
            section.weights,
        )
        handing = Handing(floor, agents, Endings(limits, floor.clock)) if agents else None
        pipeline = Pipeline(floor.store, stager, movers, limits, floor.clock, floor.reactor, floor.owner, handing)
        rules = Rules("transfers" in config.auth.shared, limits.cost, milliseconds(section.keep))
        verbs = Transfers(floor, feed, {**movers, **agents}, reserve.admit, pipeline.moved, rules)
        return pipeline, verbs

    def _make_mover(self, scheme: str, url: str, disk: ReactorPool, source: LocalArchive, floor: Floor) -> Mover:
        if url.startswith("local:"):
            return _make_local_mover(url, disk, source)
        options = self._config.transfers.mover_options.get(scheme) or MoverSection()
        reactor, credentials = floor.reactor, Papers(options.certificate, options.key, options.proxy, options.ca)
        carriers = Carriers(GFAL, credentials.environment(os.environ, options.token), credentials.stamp, reactor)
        self._parts.add(f"mover of {scheme}://", carriers)
        return GfalMover(carriers, disk, source, credentials, floor.clock)

    def _make_agents(self, disk: ReactorPool, source: LocalArchive, floor: Floor) -> dict[str, FtsAgent]:
        """Who hands over to FTS, by scheme; schemes of one server share its connections."""
        section, agents, servers = self._config.transfers, {}, dict[str, Fts]()
        for scheme, url in _fts_urls(section).items():
            options = section.mover_options[scheme]
            if url not in servers:
                servers[url] = _make_fts(url, options, floor)
                self._parts.add(f"FTS at {url}", servers[url])
            agents[scheme] = FtsAgent(servers[url], source, disk, options.source)
        return agents

    def _build_messages(self, kept: MessageStore, disk: ReactorPool, reserve: Reserve) -> Messages:
        section = self._config.messages
        # What another server keeps takes no room here.
        admit = reserve.admit if section.url == DATABASE else _admit_all
        return Messages(kept, Memory(section.cache), disk, admit, section.limit)

    def _build_mesos(self) -> tuple[Wire, Mesos]:
        section = self._config.sandbox
        policy = trust(verify=section.verify, ca=_read_ca(section.ca))
        wire = Wire(self._reactor, basic(section.username, section.password), policy, MESOS_LIMITS)
        masters = Masters(wire, section.masters)
        return wire, Mesos(wire, masters, Decoder(self._reactor), section.state_ttl, section.agents)

    def _build_listeners(self, own: Iterable[App], apps: Mapping[str, App], access_log: AccessLog) -> Listeners:
        config = self._config

        def root(section: ListenSection) -> Root:
            return Root([*own, *(apps[service] for service in section.services)])

        gate = Gate(Tokens(config.auth.tokens))
        return Listeners(
            config.listen, root, gate, config.limits, config.hub.node, access_log, self._reactor, config.auth.anonymous
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


def _read_ca(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        found = path.read_bytes()
        x509.load_pem_x509_certificates(found)
    except (OSError, ValueError) as error:
        raise StartError(f"[sandbox] ca: {path} must hold certificates in PEM form: {error}") from error
    return found


def _make_store(url: str, reactor: Any) -> Store:
    return SqliteStore(url, reactor) if is_sqlite(url) else ServerStore(url, reactor)


def _make_queue(url: str, reactor: Any) -> Queue:
    return EmbeddedQueue(reactor) if url == "embedded:" else AmqpQueue(url, reactor)


def _make_source(config: Config, disk: ReactorPool) -> LocalArchive:
    """Where what is staged is read: the archive, or the folder of a stager that calls back."""
    staged = config.transfers.staged
    if config.transfers.calls_back and staged is not None:
        return LocalArchive(staged, disk, "the folder of [transfers] staged")
    return LocalArchive(config.archive.url, disk)


def _make_stager(section: TransfersSection, source: LocalArchive, reactor: Any) -> Stager:
    if not section.calls_back:
        return ArchiveStager(source)
    options, patience = section.stager_options, StagerPatience()
    try:
        policy: Any = ClientPolicy(options.certificate, options.key, options.ca)
    except ValueError as error:
        raise StartError(f"transfers.stager_options: {error}") from error
    address = Address(section.stager, section.stager_method, section.callback or "", options.token)
    shelf = None if section.staged is None else Shelf(section.staged, source)
    return CallbackStager(address, make_client(reactor, policy, patience), shelf, reactor, patience)


def _make_local_mover(url: str, disk: ReactorPool, archive: LocalArchive) -> Mover:
    folder, _, mode = url.removeprefix("local:").partition("?mode=")
    return LocalMover(Path(folder), disk, archive, int(mode or "644", 8))


def _fts_urls(section: TransfersSection) -> dict[str, str]:
    """The FTS servers, by the scheme they copy to."""
    return {scheme: url.removeprefix("fts+") for scheme, url in section.movers.items() if url.startswith("fts+")}


def _make_fts(url: str, options: MoverSection, floor: Floor) -> Fts:
    papers = Papers(options.certificate, options.key, options.proxy, options.ca)
    policy = partial(ClientPolicy, options.proxy or options.certificate, options.proxy or options.key, options.ca)
    try:
        policy()
    except ValueError as error:
        raise StartError(f"transfers.mover_options: {error}") from error
    return Fts(url, papers, policy, floor.clock, floor.reactor)


def _make_message_store(url: str, store: Store, reactor: Any) -> MessageStore:
    if url == DATABASE:
        return DatabaseMessages(store)
    # Imported only where it is used, as the hub does without it.
    from datahub.messages.stores.redis import RedisMessages

    return RedisMessages(url, reactor)


def _admit_all() -> None: ...


def _make_access_log(section: LogSection, clock: HubClock) -> AccessLog:
    path = section.directory and section.directory / "access.log"
    return AccessLog(partial(open_sink, path, section.max_bytes, section.backups), clock.wall, section.format)


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


def milliseconds(seconds: float) -> int:
    """What the ledger and the records count in."""
    return int(seconds * 1000)
