"""Files that a living daemon owns in the rows though it doesn't work at them: it takes them again, and only those."""

from __future__ import annotations

import pytest
from sqlalchemy import insert
from twisted.internet.defer import Deferred

from datahub.carts.fetching import FETCH
from datahub.carts.model import Status
from datahub.errors import NoSpace, Unavailable
from datahub.work.tables import hub
from tests.carts.test_fetching import Remote
from tests.carts.yard import ME, START, Yard


@pytest.fixture
def remote():
    """An archive in memory."""
    return Remote()


@pytest.fixture
def far(tmp_path, remote):
    """Carts before a remote archive, of a daemon that the others take for living."""
    yard = Yard(tmp_path, remote)
    row = {"owner": ME, "node": "hub1", "version": "1", "beat": START}
    yard.store.now(lambda c: c.execute(insert(hub).values(row)))
    yield yard
    yard.end()


@pytest.mark.parametrize("fault", [NoSpace("full"), Unavailable("away")])
async def test_files_that_could_not_be_released(far, remote, fault):
    """When the database is there again, the cart goes on."""
    remote.files |= {"a": b"1", "b": b"2"}
    far.store.away |= {"keep sizes": fault, "release files": fault}
    await far.post("abc", {"a": "a", "b": "b"})
    far.pass_time(10)
    assert "release files" in far.store.names
    assert far.cart("abc").status is Status.STAGING
    far.store.away.clear()
    far.pass_time(600)
    assert far.cart("abc").status is Status.READY


async def test_a_helper_cancelled_while_it_claims(far, remote):
    """What the transaction took after all is released; the cart goes on."""
    remote.files["a"] = b"1"
    gate = far.store.gates["claim files"] = Deferred()
    await far.post("abc", {"a": "a"})
    far.work()
    (run, *_) = far.lanes[FETCH]._runs.values()
    run.task.cancel()
    del far.store.gates["claim files"]
    gate.callback(None)
    assert "release files" in far.store.names
    assert remote.asked == []
    far.pass_time(600)
    assert far.cart("abc").status is Status.READY


async def test_files_in_hand(far, remote):
    """Nobody else of the same daemon takes a file that one works at."""
    remote.files["a"] = b"1"
    gate, begun = Deferred(), []

    async def slow(*arguments):
        begun.append(arguments)
        await gate
        return await Remote.fetch(remote, *arguments)

    remote.fetch = slow
    await far.post("one", {"a": "a"})
    await far.post("two", {"a": "a"})
    far.pass_time(30)
    assert len(begun) == 1
    gate.callback(None)
    far.pass_time(30)
    assert [far.cart(uid).status for uid in ("one", "two")] == [Status.READY, Status.READY]
    assert len(begun) == 1
