"""Carts: from files that lie here, or from a Pacifica archive interface by way of a cache."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection

from datahub.archive import check_product_id
from datahub.archive.cache import Cache
from datahub.archive.local import LocalArchive
from datahub.archive.pacifica import PacificaArchive
from datahub.assembly import PACIFICA, Capability, Chore, House, milliseconds
from datahub.carts.downloads import RENEW, Downloads
from datahub.carts.fetching import FETCH, Fetcher, Remote, RemoteLimits
from datahub.carts.housekeeping import Housekeeping
from datahub.carts.pacifica import CartdRoutes
from datahub.carts.pipeline import DIGEST, STAGE, Limits, Pins, Pipeline
from datahub.carts.reading import Layouts
from datahub.carts.routes import CartRoutes
from datahub.carts.service import Carts, Rules
from datahub.config import Config
from datahub.errors import InvalidRequest
from datahub.health.events import EventRoutes
from datahub.health.routes import Health
from datahub.kit.threads import ReactorPool
from datahub.messages.routes import MessageRoutes
from datahub.sandboxes.routes import SandboxRoutes
from datahub.transfers.routes import TransferRoutes
from datahub.work import ledger

__all__ = ["build", "declare"]

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
            for each in (Health, EventRoutes, TransferRoutes, CartRoutes, SandboxRoutes, MessageRoutes)
            for name in each.app.segments()
        ),
        *("transfers", "jobs", "docs", "dashboard", "static", "metrics", "openapi.json", "robots.txt", "favicon.ico"),
        *("tokens", "sandbox", "sandboxes", "files", "work", "hubs", "notify", "api", "v1", ".well-known", "tape"),
    }
)


def declare(connection: Connection, config: Config) -> None:
    """Write down how much may go on at once in the whole cluster."""
    for lane, slots in ((STAGE, None), (FETCH, config.carts.archive_concurrent), (DIGEST, None)):
        ledger.declare(connection, lane, slots)


def build(house: House) -> Capability:
    """Carts as the configuration wants them."""
    config, section, floor, pool = house.config, house.config.carts, house.floor, house.disk
    source = _make_source(config.archive.url, pool, house.reactor)
    downloads = Downloads(house.store, house.clock)
    cache = Cache(house.store, section.path, section.space, pool)
    fetcher = source if isinstance(source, Pins) else _make_fetcher(house, source, cache, downloads)
    limits = Limits(STAGING, section.archive_concurrent, section.retry_for)
    pipeline = Pipeline(house.store, fetcher, pool, limits, house.clock, floor.owner)
    keep, expire = milliseconds(section.keep), milliseconds(section.expire)
    shared, breaks = "carts" in config.auth.shared, section.on_delete == "break"
    rules = Rules(shared, tuple(RESERVED), keep, _check_name, breaks, section.archive_concurrent)
    verbs = Carts(floor, house.feed, pool, Layouts(house.store, pool), downloads, house.reserve.admit, rules)
    tidy = Housekeeping(house.store, downloads, house.clock, expire, keep)
    return Capability(
        app=CartRoutes(verbs, section.body_limit).app,
        rest=CartdRoutes(verbs, section.body_limit, old_clients=section.old_clients).app,
        steps=pipeline.steps(),
        chores=[
            Chore("downloads", RENEW, downloads.renew),
            Chore("carts that are gone", FREE_EVERY, tidy.free),
            Chore("dropped files", FREE_EVERY, cache.sweep),
            Chore("unused carts", EXPIRE_EVERY, tidy.expire),
            Chore("old carts", FORGET_EVERY, tidy.forget_old),
        ],
        summarise=verbs.summary,
    )


def _make_source(url: str, pool: ReactorPool, reactor: Any) -> LocalArchive | PacificaArchive:
    if url.startswith(PACIFICA):
        return PacificaArchive(url.removeprefix(PACIFICA), pool, reactor)
    return LocalArchive(url, pool)


def _make_fetcher(house: House, archive: Remote, cache: Cache, downloads: Downloads) -> Fetcher:
    section = house.config.carts
    limits = RemoteLimits(
        section.archive_concurrent,
        milliseconds(section.retry_for),
        milliseconds(section.staging_timeout),
        milliseconds(section.evict_after),
    )
    owner = house.floor.owner
    return Fetcher(house.store, archive, cache, house.disk, downloads, limits, house.clock, house.reactor, owner)


def _check_name(name: str, field: str) -> None:
    try:
        check_product_id(name)
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}: {str(error).removeprefix('product_id ')}", field=field) from None
