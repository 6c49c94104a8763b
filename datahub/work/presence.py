"""Which hubs there are: a row and a heartbeat for each, and the time they share."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select, text, update

from datahub.kit.clock import HubClock
from datahub.store.dialect import insert_if_absent
from datahub.store.settings import setting
from datahub.work.tables import READY, RECOVERED, RUNNING, hub, work

__all__ = ["BEAT", "DEAD_AFTER", "MISSED", "Hub", "beat", "beats", "enter", "same_node", "take_back"]

BEAT = 5.0
"""Seconds between two heartbeats."""

MISSED = 2 * BEAT
"""A hub that could not write its beat for so long stops its own work, well before others take it over."""

DEAD_AFTER = 30.0
"""A hub whose beat stood still for so long (by the watcher's own monotonic time) is dead."""

STEP = 2000
"""Milliseconds; the database's clock was set by hand when it is off by more."""

OFFSET = "clock.offset"


@dataclass(frozen=True, slots=True)
class Hub:
    """This daemon, from start to stop."""

    owner: str
    node: str
    version: str


def enter(connection: Connection, me: Hub, clock: HubClock) -> None:
    """Take the time from the database and write our row."""
    insert_if_absent(connection, setting, {"name": OFFSET, "value": "0"})
    clock.set(_database_time(connection), _offset(connection))
    _write_row(connection, me, clock)


def beat(connection: Connection, me: Hub, clock: HubClock) -> None:
    """Say that we live, and follow the database's clock."""
    _follow(connection, me, clock)
    if connection.execute(update(hub).where(hub.c.owner == me.owner).values(beat=clock.now())).rowcount == 0:
        _write_row(connection, me, clock)


def beats(connection: Connection) -> dict[str, int]:
    """The beat of every hub, by owner."""
    return {row.owner: row.beat for row in connection.execute(select(hub.c.owner, hub.c.beat))}


def same_node(connection: Connection, node: str) -> dict[str, int]:
    """The beats of hubs that call themselves ``node``, by owner."""
    found = connection.execute(select(hub.c.owner, hub.c.beat).where(hub.c.node == node))
    return {row.owner: row.beat for row in found}


def take_back(connection: Connection, owner: str) -> list[str]:
    """Remove a hub that is gone and make ready what it held; the lanes concerned."""
    held = (work.c.owner == owner, work.c.state == RUNNING)
    lanes = list(connection.execute(select(work.c.lane).where(*held).distinct()).scalars())
    connection.execute(update(work).where(*held).values(state=READY, owner=None, note=RECOVERED))
    connection.execute(delete(hub).where(hub.c.owner == owner))
    return lanes


def _write_row(connection: Connection, me: Hub, clock: HubClock) -> None:
    insert_if_absent(
        connection,
        hub,
        {"owner": me.owner, "node": me.node, "version": me.version, "beat": clock.now(), "address": None},
    )


def _follow(connection: Connection, me: Hub, clock: HubClock) -> None:
    """Correct our time by the database's; if that one was set by hand, correct the offset instead.

    Then nothing that is due comes an hour early or late. A hub that slept sees the same difference,
    but finds the beats of others ahead of its own time: it is the one to be corrected.
    """
    offset = _offset(connection)
    database = _database_time(connection)
    drift = clock.drift(database, offset)
    if abs(drift) > STEP and not _others_are_ahead(connection, me, clock):
        offset -= drift
        connection.execute(update(setting).where(setting.c.name == OFFSET).values(value=str(offset)))
    clock.set(database, offset)


def _others_are_ahead(connection: Connection, me: Hub, clock: HubClock) -> bool:
    newest = connection.execute(select(func.max(hub.c.beat)).where(hub.c.owner != me.owner)).scalar()
    return newest is not None and newest > clock.now() + STEP


def _offset(connection: Connection) -> int:
    wanted = select(setting.c.value).where(setting.c.name == OFFSET).with_for_update()
    return int(connection.execute(wanted).scalar() or 0)


_TIME = {
    "postgresql": "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
    "mysql": "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
    "sqlite": "SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
}


def _database_time(connection: Connection) -> int:
    return int(connection.execute(text(_TIME[connection.dialect.name])).scalar_one())
