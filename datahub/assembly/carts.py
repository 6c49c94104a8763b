"""Carts: from files that lie here, or from a Pacifica archive interface by way of a cache."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from datahub.archive import check_product_id
from datahub.archive.cache import Cache
from datahub.archive.local import LocalArchive
from datahub.archive.pacifica import PacificaArchive
from datahub.assembly import PACIFICA, Capability, Chore, House, milliseconds
from datahub.carts.copying import Remote, RemoteLimits
from datahub.carts.downloads import DELETED, RENEW, Downloads
from datahub.carts.fetching import FETCH, Fetcher
from datahub.carts.housekeeping import Housekeeping
from datahub.carts.pacifica import CartdRoutes
from datahub.carts.pipeline import DIGEST, STAGE, Limits, Pins, Pipeline
from datahub.carts.reading import Layouts
from datahub.carts.routes import CartRoutes
from datahub.carts.service import Carts, Rules
from datahub.config import CartsSection, Config
from datahub.errors import InvalidRequest
from datahub.health.events import EventRoutes
from datahub.health.routes import Health
from datahub.jobs.routes import JobRoutes
from datahub.messages.routes import MessageRoutes
from datahub.sandboxes.routes import SandboxRoutes
from datahub.transfers.routes import TransferRoutes
from datahub.work import ledger

__all__ = ["build", "build_on", "declare"]

STAGING: Final = 8
"""Carts whose files are looked at at once by one daemon."""
FREE_EVERY: Final = 5.0
EXPIRE_EVERY: Final = 60.0
FORGET_EVERY: Final = 3600.0
# No cart may be called as what the hub answers at, now or in a later version.
RESERVED: Final = sorted(
    {
        *(
            name
            for each in (Health, EventRoutes, TransferRoutes, CartRoutes, JobRoutes, SandboxRoutes, MessageRoutes)
            for name in each.app.segments()
        ),
        *("docs", "dashboard", "static", "metrics", "openapi.json", "robots.txt", "favicon.ico"),
        *("tokens", "sandbox", "sandboxes", "files", "work", "hubs", "notify", "api", "v1", ".well-known", "tape"),
    }
)


def declare(connection: Connection, config: Config) -> None:
    """Write down how much may go on at once in the whole cluster."""
    for lane, slots in ((STAGE, None), (FETCH, config.carts.archive_concurrent), (DIGEST, None)):
        ledger.declare(connection, lane, slots)


def build(house: House) -> Capability:
    """Carts as the configuration wants them."""
    url = house.config.archive.url or ""
    if url.startswith(PACIFICA):
        return build_on(house, PacificaArchive(url.removeprefix(PACIFICA), house.disk, house.reactor))
    return build_on(house, LocalArchive(url, house.disk))


def build_on(house: House, source: Pins | Remote) -> Capability:
    """Carts of the files that ``source`` has."""
    section, store, clock = house.config.carts, house.store, house.clock
    downloads = Downloads(store, clock, house.serve)
    cache = Cache(store, section.path, section.space, house.disk)
    fetcher = source if isinstance(source, Pins) else _fetcher(house, source, cache, downloads)
    limits = Limits(STAGING, section.archive_concurrent, section.retry_for)
    pipeline = Pipeline(store, fetcher, house.disk, limits, clock, house.floor.owner)
    keep = milliseconds(section.keep)
    rules = _rules(section, keep, shared="carts" in house.config.auth.shared)
    layouts = Layouts(store, house.serve, house.reactor)
    verbs = Carts(house.floor, house.feed, house.serve, layouts, downloads, house.reserve.admit, rules)
    breaking = []
    if rules.break_off:
        house.floor.queue.hear(DELETED, downloads.look_for_deleted)
        # A signal may be lost.
        breaking = [Chore("downloads of deleted carts", RENEW, downloads.break_deleted)]
    tidy = Housekeeping(store, downloads, clock, milliseconds(section.expire), keep)
    return Capability(
        app=CartRoutes(verbs, section.body_limit, (house.config.hub.url or "").rstrip("/")).app,
        rest=CartdRoutes(verbs, section.body_limit, old_clients=section.old_clients).app,
        steps=pipeline.steps(),
        chores=[
            Chore("downloads", RENEW, downloads.renew),
            *breaking,
            Chore("carts that are gone", FREE_EVERY, tidy.free),
            Chore("dropped files", FREE_EVERY, cache.sweep),
            Chore("unused carts", EXPIRE_EVERY, tidy.expire),
            Chore("old carts", FORGET_EVERY, tidy.forget_old),
        ],
        summarise=verbs.summary,
    )


def _fetcher(house: House, archive: Remote, cache: Cache, downloads: Downloads) -> Fetcher:
    section, floor = house.config.carts, house.floor
    limits = RemoteLimits(
        section.archive_concurrent,
        milliseconds(section.retry_for),
        milliseconds(section.staging_timeout),
        milliseconds(section.evict_after),
    )
    return Fetcher(floor.store, archive, cache, house.disk, downloads, limits, floor.clock, floor.reactor, floor.owner)


def _rules(section: CartsSection, keep: int, *, shared: bool) -> Rules:
    breaks = section.on_delete == "break"
    return Rules(
        shared,
        tuple(RESERVED),
        keep,
        _check_name,
        breaks,
        section.archive_concurrent,
        any_hashsum=section.old_clients,
    )


def _check_name(name: str, field: str) -> None:
    try:
        check_product_id(name)
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}: {str(error).removeprefix('product_id ')}", field=field) from None
