"""What the tests of the whole daemon share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gridftp import Authority, GridServer, need_grid
from tests.whole.site import Site, opened

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests here, so that none is forgotten."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.whole)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give a site on SQLite, and end its daemons."""
    with opened("sqlite", tmp_path) as site:
        yield site


@pytest.fixture
def postgresql_site(tmp_path: Path) -> Iterator[Site]:
    """Give a site on PostgreSQL."""
    with opened("postgresql", tmp_path) as site:
        yield site


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.engine),
        pytest.param("mariadb", marks=[pytest.mark.engine, pytest.mark.slow]),
    ]
)
def server_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Give a site on each database server."""
    with opened(request.param, tmp_path) as site:
        yield site


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give who signs all certificates here."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def grid(authority: Authority) -> Iterator[GridServer]:
    """Give a GridFTP server."""
    need_grid()
    server = GridServer(authority)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def proxy(authority: Authority) -> Path:
    """Give alice's proxy."""
    return authority.proxy("alice")
