"""The few statements that the three databases spell differently, each built once; and a short way to SQLite."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import IntegrityError

__all__ = ["Direct", "Upsert", "insert_if_absent"]

DUPLICATE = 1062
"""MariaDB's number for a key that is taken."""


def insert_if_absent(connection: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Insert a row unless its unique key is taken; whether it was inserted.

    A row of the same key that another transaction is about to commit is waited for.
    """
    dialect = connection.dialect.name
    if dialect == "mysql":
        return _insert_or_notice(connection, _insert_if_absent(dialect, table), values)
    if dialect == "sqlite":
        return bool(_directly(table).run(connection, values).rowcount == 1)
    return connection.execute(_insert_if_absent(dialect, table), values).rowcount == 1


class Direct:
    """A statement of every request's way: on SQLite its text goes to the driver, with nothing in between.

    What SQLAlchemy does around an execution takes several times as long as SQLite takes for a row. ``values`` must be
    such as the driver knows (text, numbers, None), and no lists.
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._texts: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = {}

    def run(self, connection: Connection, values: dict[str, Any]) -> Any:
        """Execute it on a connection to SQLite; gives the driver's cursor."""
        text, fixed = self._text(values)
        return _driver(connection).execute(text, {**fixed, **values})

    def scalar(self, connection: Connection, values: dict[str, Any]) -> Any:
        """The one value of the one row that it finds, on any database."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, values).scalar_one()
        ((value,),) = self.run(connection, values)
        return value

    def many(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        """Execute it once for each of ``rows``, on any database."""
        if connection.dialect.name != "sqlite":
            connection.execute(self._statement, rows)
            return
        text, fixed = self._text(rows[0])
        _driver(connection).executemany(text, [{**fixed, **row} for row in rows] if fixed else rows)

    def _text(self, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        names = tuple(values)
        if names not in self._texts:
            columns = list(names) if isinstance(self._statement, Insert) else None
            compiled = self._statement.compile(dialect=_NAMED, column_keys=columns)
            fixed = {name: value for name, value in compiled.params.items() if name not in values}
            self._texts[names] = str(compiled), fixed
        return self._texts[names]


_NAMED = sqlite.dialect(paramstyle="named")


def _driver(connection: Connection) -> Any:
    if not connection.in_transaction():
        connection.begin()
    return connection.connection.driver_connection


@cache
def _directly(table: Table) -> Direct:
    return Direct(_insert_if_absent("sqlite", table))


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
        self._direct: Direct | None = None

    def __call__(self, connection: Connection, values: dict[str, Any]) -> None:
        """Do it with ``values`` for the columns and for the parameters in the changes."""
        dialect = connection.dialect.name
        if dialect == "sqlite":
            if self._direct is None:
                self._direct = Direct(self._built(dialect))
            self._direct.run(connection, values)
            return
        if dialect not in self._statements:
            self._statements[dialect] = self._built(dialect)
        connection.execute(self._statements[dialect], values)

    def _built(self, dialect: str) -> Insert:
        if dialect == "mysql":
            return mysql.insert(self._table).on_duplicate_key_update(**self._changes)
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        key = list(self._table.primary_key.columns)
        return insert(self._table).on_conflict_do_update(index_elements=key, set_=self._changes)
