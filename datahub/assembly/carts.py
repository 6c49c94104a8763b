"""Carts: from files that lie here, or from a Pacifica archive interface by way of a cache."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection

from datahub.archive.local import LocalArchive
from datahub.archive.pacifica import PacificaArchive
from datahub.assembly import PACIFICA, Capability, Chore, House
from datahub.carts import parts
from datahub.config import Config
from datahub.health.events import EventRoutes
from datahub.health.routes import Health
from datahub.jobs.routes import JobRoutes
from datahub.kit.threads import ReactorPool
from datahub.messages.routes import MessageRoutes
from datahub.sandboxes.routes import SandboxRoutes
from datahub.transfers.routes import TransferRoutes

__all__ = ["build", "declare"]

# No cart may be called as what the hub answers at, now or in a later version.
RESERVED: Final = sorted(
    {
        *(
            name
            for each in (Health, EventRoutes, TransferRoutes, parts.CartRoutes, JobRoutes, SandboxRoutes, MessageRoutes)
            for name in each.app.segments()
        ),
        *("docs", "dashboard", "static", "metrics", "openapi.json", "robots.txt", "favicon.ico"),
        *("tokens", "sandbox", "sandboxes", "files", "work", "hubs", "notify", "api", "v1", ".well-known", "tape"),
    }
)


def declare(connection: Connection, config: Config) -> None:
    """Write down how much may go on at once in the whole cluster."""
    parts.declare(connection, config.carts)


def build(house: House) -> Capability:
    """Carts as the configuration wants them."""
    config = house.config
    built = parts.build(
        config.carts,
        house.floor,
        house.feed,
        house.disk,
        house.serve,
        _make_source(config.archive.url or "", house.disk, house.reactor),
        house.reserve.admit,
        shared="carts" in config.auth.shared,
        reserved=RESERVED,
    )
    return Capability(
        app=built.routes.app,
        rest=built.cartd.app,
        steps=built.steps,
        chores=[Chore(*each) for each in built.chores],
        summarise=built.verbs.summary,
    )


def _make_source(url: str, pool: ReactorPool, reactor: Any) -> LocalArchive | PacificaArchive:
    if url.startswith(PACIFICA):
        return PacificaArchive(url.removeprefix(PACIFICA), pool, reactor)
    return LocalArchive(url, pool)
