"""The tables' common ground, and the migration that brings a database to this version at start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, Integer, MetaData, Table, Text, inspect, text
from sqlalchemy.dialects.mysql import LONGTEXT

from datahub.errors import StartError

__all__ = ["HEAD", "BigId", "LongText", "metadata", "migrate", "table"]

HEAD = "0013"
"""The newest revision in `datahub.store.migrations`; a test compares the two."""

MIGRATION_LOCK = "datahub.migrations"
MIGRATION_LOCK_NUMBER = 0x64617461
MIGRATION_WAIT = 300

metadata = MetaData()
BigId = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit primary key; SQLite numbers rows by itself only when the type is called INTEGER."""

LongText = Text().with_variant(LONGTEXT(), "mysql")
"""Text of any length; MariaDB's TEXT ends at 64 KiB."""


def table(name: str, *parts: Any) -> Table:
    """A table of ours: names compare by their bytes on every database, ids are never used again."""
    return Table(
        name,
        metadata,
        *parts,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_autoincrement=any(
            column.name == "id" and column.type is BigId for column in parts if hasattr(column, "type")
        ),
    )


def migrate(engine: Engine) -> None:
    """Bring the schema to `HEAD`, one daemon at a time.

    Raises `StartError` when the database was made by a newer datahub.
    """
    with engine.connect() as connection, _alone(connection):
        found = _revision(connection)
        if found == HEAD:
            return
        # Imported here: alembic costs half a second, and most starts find the schema as it should be.
        from datahub.store.migrations import known, upgrade

        if found is not None and found not in known():
            raise StartError(
                f"the database {engine.url.render_as_string()} is of a newer datahub (revision {found}, "
                f"this one knows up to {HEAD}): install that version again, or name another database in [database] url"
            )
        upgrade(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Hold the database's own lock for migrations; SQLite's file is locked by its daemon already."""
    take, give = {
        "postgresql": (
            f"SELECT pg_advisory_lock({MIGRATION_LOCK_NUMBER})",
            f"SELECT pg_advisory_unlock({MIGRATION_LOCK_NUMBER})",
        ),
        "mysql": (f"SELECT GET_LOCK('{MIGRATION_LOCK}', {MIGRATION_WAIT})", f"SELECT RELEASE_LOCK('{MIGRATION_LOCK}')"),
    }.get(connection.dialect.name, ("SELECT 1", "SELECT 1"))
    if connection.execute(text(take)).scalar() == 0:
        raise StartError(
            "another daemon has been migrating the database for minutes: look at its log, then start again"
        )
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(text(give))
        connection.commit()
