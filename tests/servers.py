"""How the tests reach real servers, and what they do where one is missing.

Each URL has a default, that of a server on this machine as Debian's packages and `.ci/run` leave it,
and an environment variable that names another.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql
import pytest
from sqlalchemy import URL, make_url

__all__ = ["ENGINES", "MISSING", "amqp_url", "fresh_database", "redis_url", "services_required"]

ENGINES = ("sqlite", "postgresql", "mariadb")
MISSING = "missing service: "
WAIT = 5
_PORTS = {"amqp": 5672, "redis": 6379}
_DEFAULTS = {
    "postgresql": ("DATAHUB_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"),
    "mariadb": ("DATAHUB_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306"),
    "amqp": ("DATAHUB_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672/"),
    "redis": ("DATAHUB_TEST_REDIS", "redis://127.0.0.1:6379/13"),
}


def services_required() -> bool:
    """Whether a missing server is a failure, as in the CI, and not a reason to skip."""
    return os.environ.get("CI") == "true" or os.environ.get("DATAHUB_REQUIRE_SERVICES") == "1"


def server_url(engine: str) -> str:
    """Give the URL of the server of ``engine`` ("postgresql", "mariadb", "amqp" or "redis")."""
    variable, default = _DEFAULTS[engine]
    return os.environ.get(variable) or default


def amqp_url() -> str:
    """Give the broker's URL, or skip (in the CI: fail) the test."""
    _need("amqp")
    return server_url("amqp")


def redis_url() -> str:
    """Give the URL of a database of a real Redis, or skip (in the CI: fail) the test; who uses it clears it."""
    _need("redis")
    return server_url("redis")


@contextmanager
def fresh_database(engine: str, folder: Path) -> Iterator[str]:
    """Give the URL of a new and empty database of ``engine``, dropped at the end; SQLite's lies in ``folder``."""
    if engine == "sqlite":
        yield f"sqlite:///{folder / 'datahub.sqlite'}"
        return
    _need(engine)
    url = make_url(server_url(engine))
    # The process's number is for people; a run that was killed leaves its databases behind.
    name = f"datahub_test_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    create, drop = _STATEMENTS[engine]
    _command(engine, url, create.format(name=name))
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        _command(engine, url, drop.format(name=name))


# FORCE: a database that a broken test still holds goes all the same.
_STATEMENTS = {
    "postgresql": ("CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0", "DROP DATABASE {name} WITH (FORCE)"),
    "mariadb": ("CREATE DATABASE {name} CHARACTER SET utf8mb4", "DROP DATABASE {name}"),
}


def _need(engine: str) -> None:
    reason = _fault(engine)
    if reason is None:
        return
    variable, _ = _DEFAULTS[engine]
    text = f"{MISSING}{engine} ({reason}); start it or name another in {variable}"
    if services_required():
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


@cache
def _fault(engine: str) -> str | None:
    """Say why the server of ``engine`` can't be used, asked once a test run; None when it can."""
    try:
        if engine in _PORTS:
            parts = urlsplit(server_url(engine))
            socket.create_connection((parts.hostname or "127.0.0.1", parts.port or _PORTS[engine]), WAIT).close()
        else:
            _command(engine, make_url(server_url(engine)), "SELECT 1")
    except (OSError, psycopg.Error, pymysql.Error) as fault:
        return " ".join(str(fault).split()) or type(fault).__name__
    return None


def _command(engine: str, url: URL, statement: str) -> None:
    """Run one statement outside of any transaction."""
    connection = _connect(engine, url)
    try:
        connection.cursor().execute(statement)
    finally:
        with suppress(OSError, psycopg.Error, pymysql.Error):
            connection.close()


def _connect(engine: str, url: URL) -> Any:
    if engine == "postgresql":
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(plain, autocommit=True, connect_timeout=WAIT)
    return pymysql.connect(
        host=url.host or "127.0.0.1",
        port=url.port or 3306,
        user=url.username or "root",
        password=url.password or "",
        connect_timeout=WAIT,
        autocommit=True,
    )
