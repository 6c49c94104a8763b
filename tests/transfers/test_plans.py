"""That SQLite finds an index for each filter of a list, and that pages stay quick and stable with many rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, insert

from datahub.store.engine import sqlite_engine
from datahub.store.schema import metadata
from datahub.transfers import file_tables, tables
from datahub.transfers.model import FINAL, Filter, Status
from datahub.transfers.tables import key_of, transfer

PAGE = Filter(limit=101)
NAMES = [f"person{number}" for number in range(5)]
STATES = [Status.SUBMITTED, Status.STAGING, *[Status.SUCCESS] * 10, *FINAL]


def row(number: int) -> dict[str, object]:
    """A transfer among many: ten of a moment, hundreds of destinations."""
    destination = f"file:///d/{number % 500}"
    status = STATES[number % len(STATES)]
    return {
        "id": f"{number * 2654435761 % 2**32:08x}-0000-4000-8000-{number:012x}",
        "product_id": "005",
        "destination_path": destination,
        "destination_key": key_of(destination),
        "submitter": NAMES[number % len(NAMES)],
        "overwrite": False,
        "priority": 3,
        "status": status,
        "attempts": 0,
        "time_submitted": 1_772_357_400_000 + number // 10,
        "stuck_at": 1 if number % 10_007 == 0 and not status.final else None,
        "check_at": None if status.final else 1_772_357_400_000 + number,
    }


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A connection to a database with no transfer."""
    engine = sqlite_engine(f"sqlite:///{tmp_path / 'datahub.sqlite'}", writes=True)
    with engine.connect() as connection:
        metadata.create_all(connection)
        yield connection
    engine.dispose()


FILTERS = {
    "all": PAGE,
    "oldest first": replace(PAGE, newest_first=False),
    "mine": replace(PAGE, submitter="person1"),
    "failed": replace(PAGE, statuses=(Status.ERROR,)),
    "mine that failed": replace(PAGE, submitter="person1", statuses=(Status.ERROR, Status.CANCELLED)),
    "to one place": replace(PAGE, destination="file:///d/7"),
    "since": replace(PAGE, since=1_772_357_400_500, until=1_772_357_400_600),
    "stuck": replace(PAGE, stuck=True),
    "mine that are stuck": replace(PAGE, submitter="person1", stuck=True),
}
BEHIND = (1_772_357_400_500, "7")


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("behind", [None, BEHIND])
def test_each_filter_has_its_index(connection: Connection, name: str, behind: tuple[int, str] | None) -> None:
    """No list reads the whole table, and only that of what is stuck, which is short, is sorted."""
    plans: list[str] = []

    def explain(_connection, cursor, statement, parameters, _context, _many) -> None:
        cursor = cursor.connection.cursor()
        plans.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    event.listen(connection, "before_cursor_execute", explain)
    tables.find_many(connection, replace(FILTERS[name], behind=behind))
    assert plans
    for plan in plans:
        assert "USING INDEX" in plan or "USE TEMP B-TREE" in plan or "MULTI-INDEX OR" in plan, plan
        assert "USE TEMP B-TREE" not in plan or "stuck" in name, plans
    if "stuck" in name:
        assert any("transfer_stuck_at" in plan for plan in plans), plans


def fill(connection: Connection, count: int) -> None:
    """Make ``count`` transfers."""
    for first in range(0, count, 10_000):
        connection.execute(insert(transfer), [row(number) for number in range(first, min(count, first + 10_000))])
    connection.commit()


def slowest(connection: Connection) -> dict[str, float]:
    """The seconds that each filter's first page takes, at best of three."""
    found = {}
    for name, wanted in FILTERS.items():
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            tables.find_many(connection, wanted)
            times.append(time.perf_counter() - begun)
        found[name] = min(times)
    return found


@pytest.mark.slow
def test_pages_of_many_records(connection: Connection) -> None:
    """First pages are quick; a cursor meets each row once that is there all the time, while others come and go."""
    count = 60_000
    fill(connection, count)
    assert max(slowest(connection).values()) < 0.5
    wanted = replace(PAGE, limit=1000, submitter="person1")
    expected = {f"{row(number)['id']}" for number in range(count) if number % 5 == 1 and number % 7}
    seen: list[str] = []
    behind = None
    while page := tables.find_many(connection, replace(wanted, behind=behind)):
        seen += [each.id for each in page]
        behind = (page[-1].time_submitted, page[-1].id)
        newer = count + len(seen)
        connection.execute(insert(transfer), [{**row(newer), "submitter": "person1"}])
        gone = [f"{row(number)['id']}" for number in range(len(seen) % 7 * 7, count, 7 * 11)]
        tables.remove(connection, gone, 0)
    assert len(seen) == len(set(seen))
    assert expected <= set(seen)


def test_pages_of_files(connection: Connection) -> None:
    """A page of files is read by their numbers."""
    plans: list[str] = []

    def explain(_connection, cursor, statement, parameters, _context, _many) -> None:
        cursor = cursor.connection.cursor()
        plans.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    event.listen(connection, "before_cursor_execute", explain)
    file_tables.find(connection, "job", 5, 10)
    assert len(plans) == 1
    assert "SEARCH transfer_file USING INDEX" in plans[0]
