"""Deliveries: where products come from, who stages them, who moves them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from datahub.archive import Archive
from datahub.archive.local import LocalArchive
from datahub.archive.pacifica import NoProducts
from datahub.assembly import PACIFICA, Capability, Chore, House, milliseconds
from datahub.config import Config, MoverSection, TransfersSection
from datahub.errors import StartError
from datahub.events.summary import Summary
from datahub.kit.services import Part
from datahub.kit.threads import Pool, ReactorPool
from datahub.kit.tls import ClientPolicy
from datahub.transfers.elsewhere import SharedProgress
from datahub.transfers.endings import Endings
from datahub.transfers.following import declare_servers
from datahub.transfers.handing import Handing
from datahub.transfers.housekeeping import Housekeeping
from datahub.transfers.movers import Mover
from datahub.transfers.movers.carriers import Carriers
from datahub.transfers.movers.fts import Fts
from datahub.transfers.movers.fts_jobs import Agent
from datahub.transfers.movers.fts_wire import Wire
from datahub.transfers.movers.gfal import COMMAND as GFAL
from datahub.transfers.movers.gfal import GfalMover
from datahub.transfers.movers.local import LocalMover
from datahub.transfers.movers.proxies import Papers
from datahub.transfers.orphans import Orphans
from datahub.transfers.pipeline import FTS, MOVE, STAGE, Limits, Pipeline
from datahub.transfers.reports import Reports
from datahub.transfers.routes import TransferRoutes
from datahub.transfers.service import Rules, Transfers
from datahub.transfers.stagers import Stager
from datahub.transfers.stagers.archive import ArchiveStager
from datahub.transfers.stagers.callback import Address, CallbackStager, Patience, Shelf, make_client
from datahub.transfers.stuck import StuckWatch
from datahub.transfers.tidying import TIDY
from datahub.work import ledger

__all__ = ["build", "declare"]

PROGRESS_EVERY = 1.0
DEADLINES_EVERY = 2.0
FORGET_EVERY = 3600.0
STUCK_EVERY = 30.0
ORPHANS_EVERY = 86_400.0


def declare(connection: Connection, config: Config) -> None:
    """Write down how much may go on at once in the whole cluster."""
    ledger.declare(connection, STAGE, config.transfers.staging_concurrent)
    ledger.declare(connection, MOVE, config.transfers.moving_concurrent)
    ledger.declare(connection, FTS, config.transfers.fts_concurrent)
    ledger.declare(connection, TIDY, None)
    declare_servers(connection, _fts_urls(config.transfers))


def build(house: House) -> Capability:
    """Transfers as the configuration wants them; raises `StartError`."""
    config, section, floor = house.config, house.config.transfers, house.floor
    source = _make_source(config, house.disk)
    stager = _make_stager(section, source, house.reactor)
    parts: dict[str, Part] = {}
    agents = _make_agents(house, source, parts)
    movers = {
        scheme: _make_mover(house, scheme, url, source, parts)
        for scheme, url in section.movers.items()
        if scheme not in agents
    }
    limits = Limits(
        section.staging_concurrent,
        section.moving_concurrent,
        section.staging_timeout,
        section.retry_for,
        section.weights,
        frozenset(agents),
    )
    handing = Handing(floor, agents, Endings(limits, house.clock)) if agents else None
    pipeline = Pipeline(house.store, stager, movers, limits, house.clock, house.reactor, floor.owner, handing)
    keep = milliseconds(section.keep)
    rules = Rules("transfers" in config.auth.shared, limits, keep)
    progress = SharedProgress(pipeline.moved, floor.owner, house.reactor)
    floor.queue.hear("progress", progress.hear)
    verbs = Transfers(floor, house.feed, {**movers, **agents}, house.reserve.admit, progress.all, rules)
    tidy = Housekeeping(house.store, house.clock, keep)
    return Capability(
        app=TransferRoutes(verbs, Reports(floor, limits)).app,
        steps=pipeline.steps(),
        parts=parts,
        chores=[
            Chore("progress", PROGRESS_EVERY, partial(progress.tell, floor.queue.signal)),
            Chore("deadlines", DEADLINES_EVERY, tidy.end_overdue),
            Chore("stuck transfers", STUCK_EVERY, StuckWatch(house.store, house.clock).look),
            Chore("orphaned files", ORPHANS_EVERY, Orphans(house.store, house.clock, movers).sweep),
            Chore("old transfers", FORGET_EVERY, tidy.forget_old),
        ],
        summarise=partial(_summarise, verbs, handing),
    )


async def _summarise(verbs: Transfers, handing: Handing | None) -> Summary:
    """The transfers by status; with FTS also what it said that nobody knows."""
    summary = await verbs.summary()
    return handing.reasons.beside(summary) if handing else summary


def _make_source(config: Config, disk: Pool) -> Archive:
    """Where what is staged is read: the archive, or the folder of a stager that calls back."""
    staged = config.transfers.staged
    if config.transfers.calls_back and staged is not None:
        return LocalArchive(staged, disk, "the folder of [transfers] staged")
    url = config.archive.url or ""
    return NoProducts() if url.startswith(PACIFICA) else LocalArchive(url, disk)


def _make_stager(section: TransfersSection, source: Archive, reactor: Any) -> Stager:
    if not section.calls_back:
        return ArchiveStager(source)
    options, patience = section.stager_options, Patience()
    try:
        policy: Any = ClientPolicy(options.certificate, options.key, options.ca)
    except ValueError as error:
        raise StartError(f"transfers.stager_options: {error}") from error
    address = Address(section.stager, section.stager_method, section.callback or "", options.token)
    shelf = None if section.staged is None else Shelf(section.staged, source)
    return CallbackStager(address, make_client(reactor, policy, patience), shelf, reactor, patience)


def _make_mover(house: House, scheme: str, url: str, source: Archive, parts: dict[str, Part]) -> Mover:
    """Who moves to ``scheme``; what is to be started for it goes into ``parts``."""
    if url.startswith("local:"):
        folder, _, mode = url.removeprefix("local:").partition("?mode=")
        return LocalMover(Path(folder), house.disk, source, int(mode or "644", 8))
    options = house.config.transfers.mover_options.get(scheme) or MoverSection()
    papers = Papers(options.certificate, options.key, options.proxy, options.ca, options.token_file)
    carriers = Carriers(GFAL, papers.environment(os.environ, options.token), papers.stamp, house.reactor)
    parts[f"mover of {scheme}://"] = carriers
    return GfalMover(carriers, house.disk, source, papers, house.clock)


def _make_agents(house: House, source: Archive, parts: dict[str, Part]) -> dict[str, Agent]:
    """Who hands over to FTS, by scheme; schemes of one server share its connections."""
    section, agents, servers = house.config.transfers, dict[str, Agent](), dict[str, Fts]()
    for scheme, url in _fts_urls(section).items():
        options = section.mover_options[scheme]
        if url not in servers:
            servers[url] = parts[f"FTS at {url}"] = _make_fts(url, options, house)
        agents[scheme] = Agent(servers[url], source, house.disk, options.source, section.fts_timeout)
    return agents


def _fts_urls(section: TransfersSection) -> dict[str, str]:
    """The FTS servers, by the scheme they copy to."""
    return {scheme: url.removeprefix("fts+") for scheme, url in section.movers.items() if url.startswith("fts+")}


def _make_fts(url: str, options: MoverSection, house: House) -> Fts:
    papers = Papers(options.certificate, options.key, options.proxy, options.ca)
    policy = partial(ClientPolicy, options.proxy or options.certificate, options.proxy or options.key, options.ca)
    try:
        policy()
    except ValueError as error:
        raise StartError(f"transfers.mover_options: {error}") from error
    # Not those of the disk: they hash files for minutes.
    threads = ReactorPool("fts", 1, house.reactor)
    return Fts(Wire(url, papers, policy, house.clock, house.reactor, threads), house.reactor)
