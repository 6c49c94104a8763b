"""The rooms of carts, built and joined; `datahub.hub` says on what they stand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from datahub.archive import check_product_id
from datahub.archive.cache import Cache
from datahub.carts.downloads import RENEW, Downloads
from datahub.carts.fetching import FETCH, Fetcher, Remote, RemoteLimits
from datahub.carts.housekeeping import Housekeeping
from datahub.carts.pacifica import CartdRoutes
from datahub.carts.pipeline import DIGEST, STAGE, Limits, Pins, Pipeline
from datahub.carts.reading import Layouts
from datahub.carts.routes import CartRoutes
from datahub.carts.service import Carts, Rules
from datahub.config import CartsSection
from datahub.errors import InvalidRequest
from datahub.events.feed import Feed
from datahub.kit.threads import Pool
from datahub.work import ledger
from datahub.work.lane import Floor, Step

__all__ = ["CartRoutes", "Parts", "build", "declare"]

STAGING: Final = 8
"""Carts whose files are looked at at once by one daemon."""
FREE_EVERY: Final = 5.0
EXPIRE_EVERY: Final = 60.0
FORGET_EVERY: Final = 3600.0

Chore = tuple[str, float, Callable[[], Awaitable[object]]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the hub needs to know of carts."""

    verbs: Carts
    routes: CartRoutes
    cartd: CartdRoutes
    steps: Sequence[Step]
    chores: Sequence[Chore]


def declare(connection: Connection, section: CartsSection) -> None:
    """Make the rows of the lanes."""
    for lane, slots in ((STAGE, None), (FETCH, section.archive_concurrent), (DIGEST, None)):
        ledger.declare(connection, lane, slots)


def build(
    section: CartsSection,
    floor: Floor,
    feed: Feed,
    pool: Pool,
    serve: Pool,
    source: Pins | Remote,
    admit: Callable[[], None],
    *,
    shared: bool,
    reserved: Sequence[str],
) -> Parts:
    """Build all; ``reserved`` are the names at the hub's top, which no cart may have.

    What takes long is done in ``pool``; what is read for a caller, in ``serve``.
    """
    downloads = Downloads(floor.store, floor.clock)
    cache = Cache(floor.store, section.path, section.space, pool)
    fetcher = source if isinstance(source, Pins) else _fetcher(section, floor, source, cache, pool, downloads)
    limits = Limits(STAGING, section.archive_concurrent, section.retry_for)
    pipeline = Pipeline(floor.store, fetcher, pool, limits, floor.clock, floor.owner)
    keep, expire = int(section.keep * 1000), int(section.expire * 1000)
    rules = Rules(shared, tuple(reserved), keep, _check_name, section.on_delete == "break", section.archive_concurrent)
    verbs = Carts(floor, feed, serve, Layouts(floor.store, serve), downloads, admit, rules)
    house = Housekeeping(floor.store, downloads, floor.clock, expire, keep)
    chores: list[Chore] = [
        ("downloads", RENEW, downloads.renew),
        ("carts that are gone", FREE_EVERY, house.free),
        ("dropped files", FREE_EVERY, cache.sweep),
        ("unused carts", EXPIRE_EVERY, house.expire),
        ("old carts", FORGET_EVERY, house.forget_old),
    ]
    routes = CartRoutes(verbs, section.body_limit)
    cartd = CartdRoutes(verbs, section.body_limit, old_clients=section.old_clients)
    return Parts(verbs, routes, cartd, pipeline.steps(), chores)


def _fetcher(
    section: CartsSection, floor: Floor, archive: Remote, cache: Cache, pool: Pool, downloads: Downloads
) -> Fetcher:
    limits = RemoteLimits(
        section.archive_concurrent,
        int(section.retry_for * 1000),
        int(section.staging_timeout * 1000),
        int(section.evict_after * 1000),
    )
    return Fetcher(floor.store, archive, cache, pool, downloads, limits, floor.clock, floor.reactor, floor.owner)


def _check_name(name: str, field: str) -> None:
    try:
        check_product_id(name)
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}: {str(error).removeprefix('product_id ')}", field=field) from None
