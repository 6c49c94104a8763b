"""The fixtures that all tests share do catch what they are there for."""

from __future__ import annotations

import pytest

from tests.servers import ENGINES, fresh_database

# The inner runs use the very conftest of this folder.
pytestmark = pytest.mark.usefixtures("inner_run")


@pytest.fixture
def inner_run(pytester: pytest.Pytester, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare a folder whose tests run with our conftest, unmeasured."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    root = request.config.rootpath
    pytester.makeconftest("from tests.conftest import *")
    pytester.makeini(f"[pytest]\npythonpath = {root}\n")


def run(pytester: pytest.Pytester, source: str) -> pytest.RunResult:
    pytester.makepyfile(source)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider")


def test_a_left_over_call_fails_the_test(pytester):
    """A delayed call that outlives its test is named, and the next test does not suffer from it."""
    result = run(
        pytester,
        """
        from twisted.internet import reactor

        async def test_leaves_a_call():
            reactor.callLater(60, print, "late")

        async def test_is_clean():
            pass
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the test left behind:*", "*a delayed call: *print*"])


def test_an_unheard_failure_fails_the_test(pytester):
    """The failure of a Deferred that nobody waits for is shown with its traceback, in a cycle as well."""
    result = run(
        pytester,
        """
        from twisted.internet.defer import Deferred, fail

        async def test_drops_a_failure():
            fail(ValueError("lost"))

        async def test_drops_a_failure_in_a_cycle():
            deferred = Deferred()
            deferred.itself = deferred
            deferred.errback(ValueError("lost in a cycle"))
        """,
    )
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*ValueError: lost*", "*ValueError: lost in a cycle*"])


def test_an_open_port_fails_the_test(pytester):
    """A port that is still listened on after the test is named; one that is closed in the end is fine."""
    result = run(
        pytester,
        """
        from twisted.internet import reactor
        from twisted.internet.protocol import Factory

        async def test_leaves_a_port():
            reactor.listenTCP(0, Factory(), interface="127.0.0.1")

        async def test_closes_its_port():
            reactor.listenTCP(0, Factory(), interface="127.0.0.1").stopListening()
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*an open socket: *"])


def test_an_async_test_that_hangs_fails_and_the_next_one_runs(pytester):
    """A wait that never ends is cancelled where it waits; the reactor lives on."""
    result = run(
        pytester,
        """
        import pytest
        from twisted.internet.defer import Deferred

        @pytest.mark.timeout(8)
        async def test_hangs():
            await Deferred()

        async def test_goes_on():
            pass
        """,
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*TimeoutError: the test test_hangs took longer than*"])


MISSING_SERVICE = """
    from pathlib import Path
    from tests.servers import fresh_database

    def test_needs_a_server():
        with fresh_database("postgresql", Path("/nowhere")):
            pass
    """


def test_a_missing_server_is_a_skip_with_the_reason(pytester, monkeypatch):
    """Where a server is not to be had its tests are skipped, and the reason says which variable names another."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("DATAHUB_REQUIRE_SERVICES", raising=False)
    monkeypatch.setenv("DATAHUB_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:1/postgres")
    result = run(pytester, MISSING_SERVICE)
    result.assert_outcomes(skipped=1)


@pytest.mark.parametrize(("variable", "value"), [("CI", "true"), ("DATAHUB_REQUIRE_SERVICES", "1")])
def test_a_missing_server_is_a_failure_in_the_ci(pytester, monkeypatch, variable, value):
    """Where services are required the same test fails."""
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("DATAHUB_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:1/postgres")
    result = run(pytester, MISSING_SERVICE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*missing service: postgresql*DATAHUB_TEST_POSTGRESQL*"])


def test_a_skip_for_a_missing_service_is_a_failure_in_the_ci(pytester, monkeypatch):
    """A test that skips by itself for a missing service fails where services are required; other skips stay."""
    monkeypatch.setenv("CI", "true")
    result = run(
        pytester,
        """
        import pytest

        def test_skips_for_a_service():
            pytest.skip("missing service: gridftp")

        def test_skips_for_another_reason():
            pytest.skip("not on this system")
        """,
    )
    result.assert_outcomes(failed=1, skipped=1)


@pytest.mark.parametrize("engine", [pytest.param(each, marks=pytest.mark.engine) for each in ENGINES[1:]])
def test_a_fresh_database_is_empty_and_goes(engine, tmp_path):
    """Two databases of one test are two, both empty, and neither is there afterwards."""
    import sqlalchemy

    with fresh_database(engine, tmp_path) as one, fresh_database(engine, tmp_path) as other:
        assert one != other
        database = sqlalchemy.create_engine(one)
        assert sqlalchemy.inspect(database).get_table_names() == []
        with database.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE proof (id INTEGER)"))
        database.dispose()
    gone = sqlalchemy.create_engine(one)
    with pytest.raises(sqlalchemy.exc.OperationalError):
        gone.connect()
    gone.dispose()
