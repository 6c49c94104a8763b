"""That SQLite finds an index for what is asked of the ledger again and again, however much waits or is delayed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from datahub.store.engine import sqlite_engine
from datahub.store.schema import metadata
from datahub.work import ledger, sweeper

LANE = "test.step"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A connection to a ledger with one lane and one item."""
    engine = sqlite_engine(f"sqlite:///{tmp_path / 'datahub.sqlite'}", writes=True)
    with engine.connect() as connection:
        metadata.create_all(connection)
        ledger.declare(connection, LANE, 4)
        ledger.enqueue(connection, LANE, "t1", "alice")
        yield connection
    engine.dispose()


@pytest.fixture
def plans(connection: Connection) -> Iterator[list[str]]:
    """How SQLite has found the rows of each query of the ledger's items, in their order."""
    found: list[str] = []

    def explain(_connection, cursor, statement, parameters, _context, _many) -> None:
        if "FROM work" in statement and statement.startswith("SELECT"):
            cursor = cursor.connection.cursor()
            found.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    event.listen(connection, "before_cursor_execute", explain)
    yield found
    event.remove(connection, "before_cursor_execute", explain)


def test_a_claim_counts_and_sorts_by_its_indexes(connection: Connection, plans: list[str]) -> None:
    """Counting what runs reads no row that waits, and the lowest turns are not sorted for."""
    assert len(ledger.claim(connection, LANE, 1, "hub1:aa")) == 1
    assert plans == [
        "SEARCH work USING COVERING INDEX work_busy (lane=? AND state=?)",
        "SEARCH work USING INDEX work_turn (lane=? AND state=?)",
    ]


def test_what_is_due_is_found_by_its_index(connection: Connection, plans: list[str]) -> None:
    """Neither the look each second nor the waking reads what is ready or not due yet."""
    assert not sweeper._anything_due(connection, 5)
    assert sweeper._wake(connection, 5) == []
    assert len(plans) == 3
    assert all("INDEX work_due (state=? AND due<?)" in plan for plan in plans)
