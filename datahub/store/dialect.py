"""The few statements that the three databases spell differently, each built once."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import IntegrityError

__all__ = ["Upsert", "insert_if_absent"]

DUPLICATE = 1062
"""MariaDB's number for a key that is taken."""


def insert_if_absent(connection: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Insert a row unless its unique key is taken; whether it was inserted.

    A row of the same key that another transaction is about to commit is waited for.
    """
    statement = _insert_if_absent(connection.dialect.name, table)
    if connection.dialect.name == "mysql":
        return _insert_or_notice(connection, statement, values)
    return connection.execute(statement, values).rowcount == 1


@cache
def _insert_if_absent(dialect: str, table: Table) -> Insert:
    if dialect == "mysql":
        return mysql.insert(table)
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def _insert_or_notice(connection: Connection, statement: Insert, values: dict[str, Any]) -> bool:
    """MariaDB's INSERT IGNORE would also cut values that are too long, without an error."""
    try:
        with connection.begin_nested():
            connection.execute(statement, values)
    except IntegrityError as error:
        if error.orig is None or error.orig.args[0] != DUPLICATE:
            raise
        return False
    return True


class Upsert:
    """Inserts a row, or applies ``changes`` (column expressions) to the one that has its primary key."""

    def __init__(self, table: Table, **changes: ColumnElement[Any]) -> None:
        self._table = table
        self._changes = changes
        self._statements: dict[str, Insert] = {}

    def __call__(self, connection: Connection, values: dict[str, Any]) -> None:
        """Do it with ``values`` for the columns and for the parameters in the changes."""
        dialect = connection.dialect.name
        if dialect not in self._statements:
            self._statements[dialect] = self._built(dialect)
        connection.execute(self._statements[dialect], values)

    def _built(self, dialect: str) -> Insert:
        if dialect == "mysql":
            return mysql.insert(self._table).on_duplicate_key_update(**self._changes)
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        key = list(self._table.primary_key.columns)
        return insert(self._table).on_conflict_do_update(index_elements=key, set_=self._changes)
