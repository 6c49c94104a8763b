"""What all tests share: a reactor that must stay clean, and real servers where they are there."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from datahub.kit.aio import within
from tests.cleanliness import Watch
from tests.servers import ENGINES, MISSING, amqp_url, fresh_database, services_required

pytest_plugins = ["pytester"]

# How long an example takes tells of the machine.
settings.register_profile("datahub", deadline=None)
settings.load_profile("datahub")

DATABASES = [pytest.param(each, marks=() if each == "sqlite" else pytest.mark.engine) for each in ENGINES]


def pytest_collection_finish() -> None:
    """Take all that is imported out of the garbage collector's sight, so that collecting after each test is cheap."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Cancel an `async def` test that takes too long, so that it fails where it waits and the next one runs.

    pytest-timeout's signal would be raised inside the reactor, which goes on and leaves the test waiting;
    it remains for tests that block.
    """
    test = pyfuncitem.obj
    if inspect.iscoroutinefunction(test) and not hasattr(test, "hypothesis"):
        pyfuncitem.obj = _limited(test, _seconds(pyfuncitem))


def _seconds(pyfuncitem: pytest.Function) -> float:
    marker = pyfuncitem.get_closest_marker("timeout")
    whole = marker.args[0] if marker and marker.args else pyfuncitem.config.getini("timeout") or 60
    # The rest is for setting up, which pytest-timeout counts as well.
    return float(whole) / 4 * 3


def _limited(test: Any, seconds: float) -> Any:
    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        from twisted.internet import reactor

        clock: Any = reactor
        await within(seconds, test(*args, **kwargs), clock, f"the test {test.__name__}")

    return limited


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Take a skip for a missing service as a failure where services are required."""
    report = yield
    if report.skipped and services_required() and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if MISSING in reason:
            report.outcome = "failed"
            report.longrepr = f"{reason} (a skip for a missing service is a failure here)"
    return report


@pytest.fixture(autouse=True)
def clean_reactor() -> Iterator[None]:
    """Fail a test that leaves a delayed call, an open socket or an unheard failure behind."""
    from twisted.internet import reactor

    watch = Watch(reactor)
    yield
    left = watch.close()
    if left:
        pytest.fail("the test left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a new, empty database, on each engine in turn."""
    with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=DATABASES, scope="session")
def lasting_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a database that the whole run shares, one on each engine: who uses it clears it."""
    with fresh_database(request.param, tmp_path_factory.mktemp("lasting")) as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a PostgreSQL database that the whole run shares."""
    with fresh_database("postgresql", tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture(scope="session")
def broker_url() -> str:
    """Give the URL of a real AMQP broker."""
    return amqp_url()


@pytest.fixture
def reactor() -> Any:
    """Give the real reactor."""
    from twisted.internet import reactor

    return reactor
