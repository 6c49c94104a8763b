"""How a daemon takes its node's name at start: never while another one bears it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

from sqlalchemy import Engine
from twisted.logger import Logger

from datahub.errors import StartError
from datahub.kit.clock import HubClock
from datahub.kit.locks import FileLock
from datahub.work import presence
from datahub.work.presence import BEAT, Hub

__all__ = ["hold_name", "take_name"]

log = Logger()

WATCH = 2 * BEAT + 1


def hold_name(state: Path, node: str) -> FileLock:
    """Lock ``node`` on this machine and state folder; raises `StartError` when another process has it."""
    lock = FileLock(state / f"hub-{node}.lock")
    if not lock.acquire():
        raise StartError(
            f"node {node!r} runs already as process {lock.holder()} with the state folder {state}: "
            "stop it, or give this daemon another [hub] node and state"
        )
    return lock


def take_name(
    engine: Engine,
    state: Path,
    node: str,
    version: str,
    clock: HubClock,
    sleep: Callable[[float], object],
    *,
    alone: bool,
) -> Hub:
    """Enter the cluster as ``node``, and take back what its former self held; blocking.

    A row of that name which is not our own former one is watched for two heartbeats: it may be a daemon
    on another machine. Raises `StartError` if it lives. ``alone``: nobody else can use this database.
    """
    me = Hub(f"{node}:{token_hex(4)}", node, version)
    memory = state / f"hub-{node}.owner"
    former = memory.read_text().strip() if memory.exists() else ""
    with engine.begin() as connection:
        seen = presence.same_node(connection, node)
    strangers = {} if alone else {owner: beat for owner, beat in seen.items() if owner != former}
    if strangers:
        _watch(engine, node, strangers, sleep)
    with engine.begin() as connection:
        for owner in seen:
            presence.take_back(connection, owner)
        presence.enter(connection, me, clock)
    _give_way(engine, me, set(seen))
    _remember(memory, me.owner)
    return me


def _give_way(engine: Engine, me: Hub, known: set[str]) -> None:
    """Of two daemons that took the name at the same moment, neither having seen the other, one gives way."""
    with engine.begin() as connection:
        rivals = presence.same_node(connection, me.node).keys() - known - {me.owner}
        if not rivals or min(rivals) > me.owner:
            return
        presence.take_back(connection, me.owner)
    raise StartError(f"another daemon called {me.node!r} is starting on this database: give this one another node")


def _watch(engine: Engine, node: str, strangers: dict[str, int], sleep: Callable[[float], object]) -> None:
    log.warn("another daemon called {node} has been here: watching it for {seconds:.0f} s", node=node, seconds=WATCH)
    sleep(WATCH)
    with engine.begin() as connection:
        now = presence.same_node(connection, node)
    if any(now.get(owner, beat) != beat for owner, beat in strangers.items()):
        raise StartError(
            f"another daemon called {node!r} is running on this database: give this one another [hub] node"
        )


def _remember(memory: Path, owner: str) -> None:
    """Write who we are, whole or not at all."""
    new = memory.with_suffix(".new")
    new.write_text(owner)
    new.replace(memory)
