"""Durable submissions a second through HTTP, against the same rows inserted and committed one by one in a bare loop."""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import uuid4

from load import rate, submission
from measuring import Hub, Process, alternate, ratio, room, show, spread, title

from datahub.store.opening import open_database

ROUNDS = 3
SECONDS = 2.0
CLIENTS = (1, 8, 64)

# What one submission writes, as the driver sees it.
TRANSFER = (
    "INSERT INTO transfer (id, product_id, destination_path, submitter, overwrite, status, attempts, time_submitted) "
    "VALUES (?, ?, ?, 'anonymous@127.0.0.1', 0, 'SUBMITTED', 0, ?)"
)
VIRTUAL = "SELECT virtual FROM lane WHERE name = 'transfers.stage'"
SHARE = (
    "INSERT INTO share (lane, submitter, last) VALUES ('transfers.stage', 'anonymous@127.0.0.1', ?) "
    "ON CONFLICT (lane, submitter) DO UPDATE SET last = max(last, ?) + 1000 RETURNING last"
)
WORK = (
    "INSERT INTO work (lane, subject, submitter, state, turn, attempt) "
    "VALUES ('transfers.stage', ?, 'anonymous@127.0.0.1', 'ready', ?, 0)"
)


def main(rounds: int = ROUNDS) -> None:
    """Measure and print the table."""
    with room() as folder:
        hub = Hub(folder / "hub", workers=())
        request = submission("a/product/of/some/name", hub.deliveries.as_uri())
        bare = bare_database(folder / "bare.sqlite")
        with hub.running() as process, closing(bare):
            rate(process.port, 8, 1.0, request)
            costs: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
            measures = {0: partial(commit_in_a_loop, bare, SECONDS)}
            measures |= {each: partial(load, process, each, request, costs[each]) for each in CLIENTS}
            found = alternate(rounds, measures)
    title("durable submissions a second", "a second", "of the bare loop", "CPU µs each")
    show("sqlite3, WAL, FULL, one by one", spread(found[0], 0), "1")
    for clients, cost in costs.items():
        ratios = ratio(found[clients], found[0])
        show(f"hub, {clients} clients", spread(found[clients], 0), spread(ratios), spread(cost, 0))


def bare_database(path: Path) -> sqlite3.Connection:
    """Make a database as the hub does, and open it with nothing in between."""
    engine, lock = open_database(f"sqlite:///{path}", 0, time.sleep)
    engine.dispose()
    if lock is not None:
        lock.release()
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("INSERT INTO lane (name, slots, virtual, paused) VALUES ('transfers.stage', 4, 0, 0)")
    return connection


def commit_in_a_loop(connection: sqlite3.Connection, seconds: float) -> float:
    """Give the commits a second."""
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        number = str(uuid4())
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(TRANSFER, (number, "a/product/of/some/name", "file:///srv/deliveries", time.time_ns()))
        [virtual] = connection.execute(VIRTUAL).fetchone()
        [turn] = connection.execute(SHARE, (virtual + 1000, virtual)).fetchone()
        connection.execute(WORK, (number, turn))
        connection.execute("COMMIT")
        count += 1
    return count / (time.perf_counter() - begun)


def load(process: Process, clients: int, request: bytes, costs: list[float]) -> float:
    """Give the submissions a second; what each has cost the server in µs goes into ``costs``."""
    before = process.cpu()
    found = rate(process.port, clients, SECONDS, request)
    costs.append((process.cpu() - before) / (found * SECONDS) * 1e6)
    return found


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
