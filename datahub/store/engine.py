"""Engines for the three databases, with the settings that keep their promises alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url

__all__ = ["is_sqlite", "server_engine", "sqlite_engine", "sqlite_path"]

CONNECT_TIMEOUT = 5
STATEMENT_TIMEOUT = 60
BUSY_TIMEOUT = 30
WRITER = ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
READER = ("query_only=ON",)
"""A reader leaves the file's settings alone: to set them again it would wait for the writer."""


def is_sqlite(url: str) -> bool:
    """Whether ``url`` names an SQLite file."""
    return make_url(url).get_backend_name() == "sqlite"


def sqlite_path(url: str) -> Path:
    """The file of an SQLite URL."""
    return Path(make_url(url).database or "")


def sqlite_engine(url: str, *, writes: bool) -> Engine:
    """An engine on an SQLite file; a writer's transactions begin with the write lock.

    pysqlite's own way opens a transaction only at the first write, after the reads it was decided on:
    updates get lost without an error. So ``BEGIN`` is ours.
    """
    engine = create_engine(
        url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in WRITER if writes else READER:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def server_engine(url: str, *, size: int) -> Engine:
    """An engine with ``size`` connections to PostgreSQL or MariaDB at READ COMMITTED; no wait is endless."""
    arguments: dict[str, Any]
    if make_url(url).get_backend_name() == "postgresql":
        arguments = {
            "connect_timeout": CONNECT_TIMEOUT,
            "tcp_user_timeout": STATEMENT_TIMEOUT * 1000,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT * 1000} -c timezone=UTC",
        }
    else:
        arguments = {
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": STATEMENT_TIMEOUT,
            "write_timeout": STATEMENT_TIMEOUT,
            "charset": "utf8mb4",
        }
    return create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=size,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT,
        hide_parameters=True,
        connect_args=arguments,
    )
