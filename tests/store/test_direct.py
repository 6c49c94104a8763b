"""The short way to SQLite does what the long one does."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import bindparam, insert, select

from datahub.errors import NoSpace
from datahub.store.dialect import Direct, Upsert, insert_if_absent
from datahub.store.engine import sqlite_engine
from datahub.store.schema import metadata
from datahub.store.settings import setting
from datahub.store.sqlite import told


@pytest.fixture
def connection(tmp_path: Path):
    """A connection to an empty database."""
    engine = sqlite_engine(f"sqlite:///{tmp_path / 'hub.sqlite'}", writes=True)
    with engine.connect() as connection:
        metadata.create_all(connection)
        connection.commit()
        yield connection
    engine.dispose()


VALUE = Direct(select(setting.c.value).where(setting.c.name == bindparam("which")))


def test_it_is_part_of_the_transaction(connection):
    """What is written goes with a rollback, also when it was the first statement."""
    assert insert_if_absent(connection, setting, {"name": "a", "value": "1"})
    assert not insert_if_absent(connection, setting, {"name": "a", "value": "2"})
    connection.rollback()
    assert connection.execute(select(setting)).all() == []
    Direct(insert(setting)).many(connection, [{"name": name, "value": "x"} for name in "ab"])
    assert VALUE.scalar(connection, {"which": "b"}) == "x"
    connection.commit()
    assert len(connection.execute(select(setting)).all()) == 2


def test_statements_with_values_of_their_own(connection):
    """Constants of the statement are kept beside what is given."""
    longer = Upsert(setting, value=setting.c.value + "," + bindparam("more"))
    for more in "xyz":
        longer(connection, {"name": "a", "value": "first", "more": more})
    assert VALUE.scalar(connection, {"which": "a"}) == "first,y,z"


def test_its_errors_are_told_in_the_same_words(connection, tmp_path):
    """A full database is a full database."""
    connection.exec_driver_sql("PRAGMA max_page_count = 1")
    big = {"name": "big", "value": "x" * 10_000_000}
    with pytest.raises(Exception, match="full") as found:
        insert_if_absent(connection, setting, big)
    assert isinstance(told("write", found.value, tmp_path), NoSpace)
    connection.rollback()
