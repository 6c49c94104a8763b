"""What a claim costs with many waiting or delayed, and how soon another submitter's item is taken, on each database."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from uuid import uuid4

from measuring import room, show, spread, title
from sqlalchemy import Connection, Engine, String, case, cast, create_engine, insert, literal, make_url, select, text
from sqlalchemy.exc import OperationalError

from datahub.store.engine import is_sqlite, server_engine, sqlite_engine
from datahub.store.opening import open_database
from datahub.work import Item, ledger
from datahub.work.tables import DELAYED, READY, share, work

LANE = "bench.step"
MANY = 100_000
FEW = 100
BLOCKS = 4
CLAIMS = 40
SERVERS = {
    "PostgreSQL": os.environ.get("DATAHUB_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"),
    "MariaDB": os.environ.get("DATAHUB_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306"),
}


@dataclass(frozen=True)
class Backlog:
    """What one submitter has in the ledger: items that can be claimed, and others that are delayed."""

    name: str
    ready: int
    delayed: int = 0


BACKLOGS = (
    Backlog(f"{FEW} waiting", FEW),
    Backlog(f"{MANY:,} waiting", MANY),
    Backlog(f"{FEW} waiting, {MANY:,} delayed", FEW, MANY),
)


def main(blocks: int = BLOCKS) -> None:
    """Measure and print a table for each database that is there."""
    measure("SQLite", None, blocks)
    for name, server in SERVERS.items():
        try:
            create_engine(server).connect().close()
        except OperationalError as error:
            print(f"\n== {name} is left out: {str(error.orig).splitlines()[0]}")
            continue
        measure(name, server, blocks)


def measure(database: str, server: str | None, blocks: int) -> None:
    """Take claims in turn from three ledgers of one kind, and print the table."""
    with room() as folder, ExitStack() as stack:
        engines = [stack.enter_context(ledger_with(backlog, server, folder)) for backlog in BACKLOGS]
        claims: list[list[float]] = [[] for _ in BACKLOGS]
        for _ in range(blocks):
            turns = [[claim_time(engine) * 1e6 for engine in engines] for _ in range(CLAIMS)]
            for found, times in zip(claims, zip(*turns, strict=True), strict=True):
                found.append(median(times))
        waits = [another_is_taken(engine) for engine in engines]
    title(f"{database}: a claim, up to its commit", "µs", f"of {FEW} waiting", "another's item waits for")
    for backlog, found, (others, seconds) in zip(BACKLOGS, claims, waits, strict=True):
        ratios = [value / peer for value, peer in zip(found, claims[0], strict=True)]
        show(backlog.name, spread(found, 0), spread(ratios), f"{others} slots, {seconds * 1000:.1f} ms")


@contextmanager
def ledger_with(backlog: Backlog, server: str | None, folder: Path) -> Iterator[Engine]:
    """Give an engine on a new database in which ``backlog`` waits."""
    with fresh_database(server, folder) as url:
        opened, lock = open_database(url, 5, time.sleep)
        opened.dispose()
        engine = sqlite_engine(url, writes=True) if is_sqlite(url) else server_engine(url, size=2)
        try:
            with engine.begin() as connection:
                ledger.declare(connection, LANE, 4)
                fill(connection, backlog)
            yield engine
        finally:
            engine.dispose()
            if lock is not None:
                lock.release()


@contextmanager
def fresh_database(server: str | None, folder: Path) -> Iterator[str]:
    """Give the URL of a new database, removed at the end."""
    name = f"datahub_bench_{uuid4().hex[:12]}"
    if server is None:
        yield f"sqlite:///{folder / name}.sqlite"
        return
    outside = create_engine(server, isolation_level="AUTOCOMMIT")
    with outside.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(text(f"DROP DATABASE {name}"))
            outside.dispose()


def fill(connection: Connection, backlog: Backlog) -> None:
    """Put the items of one submitter on the lane, with the turns that enqueue gives; the delayed ones came first."""
    if connection.dialect.name == "mysql":
        connection.execute(text(f"SET max_recursive_iterations = {2 * MANY}"))
    count = backlog.delayed + backlog.ready
    numbers = select(literal(1).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < count))
    is_delayed = numbers.c.n <= backlog.delayed
    row = {
        "lane": literal(LANE),
        "subject": literal("alice") + cast(numbers.c.n, String(20)),
        "submitter": literal("alice"),
        "state": case((is_delayed, DELAYED), else_=READY),
        "turn": numbers.c.n * ledger.COST,
        "due": case((is_delayed, 2**60)),
        "attempt": literal(0),
    }
    connection.execute(insert(work).from_select(list(row), select(*row.values())))
    connection.execute(insert(share), {"lane": LANE, "submitter": "alice", "last": count * ledger.COST})


def claim_time(engine: Engine) -> float:
    """Give the seconds of one claim; the item is settled and another one put behind, so that as many wait as before.

    Without the commit, whose time is the disk's and the same however many wait.
    """
    with engine.begin() as connection:
        begun = time.perf_counter()
        [item] = ledger.claim(connection, LANE, 1, "bench:1")
        took = time.perf_counter() - begun
    settle(engine, item, replace=True)
    return took


def claimed(engine: Engine) -> list[Item]:
    """Claim one item."""
    with engine.begin() as connection:
        return ledger.claim(connection, LANE, 1, "bench:1")


def settle(engine: Engine, item: Item, *, replace: bool) -> None:
    """Take an item off, and put another of the same submitter on the lane."""
    with engine.begin() as connection:
        ledger.settle(connection, item, "bench:1")
        if replace:
            ledger.enqueue(connection, LANE, uuid4().hex, item.submitter)


def another_is_taken(engine: Engine) -> tuple[int, float]:
    """Give how many slots went to others before a newcomer's item was taken, and the seconds from its commit."""
    with engine.begin() as connection:
        ledger.enqueue(connection, LANE, uuid4().hex, "bob")
    begun = time.perf_counter()
    for others in range(MANY):
        [item] = claimed(engine)
        if item.submitter == "bob":
            return others, time.perf_counter() - begun
        settle(engine, item, replace=False)
    raise AssertionError("it never came")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
