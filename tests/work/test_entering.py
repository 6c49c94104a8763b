"""How a daemon takes its node's name: alone, again after a crash, never from one that lives."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import create_engine, insert, select, update
from sqlalchemy.pool import StaticPool

from datahub.errors import StartError
from datahub.kit.clock import HubClock
from datahub.store.schema import metadata
from datahub.work import ledger, presence
from datahub.work.entering import WATCH, hold_name, take_name
from datahub.work.presence import BEAT
from datahub.work.tables import READY, RUNNING, hub, work


class Cluster:
    """A database that hubs enter; while one watches, ``meanwhile`` happens."""

    def __init__(self, folder):
        self.engine = create_engine("sqlite://", poolclass=StaticPool)
        metadata.create_all(self.engine)
        self.folder = folder
        self.slept = []
        self.meanwhile = lambda connection: None

    def enter(self, state="one", *, node="hub1", alone=False):
        folder = self.folder / state
        folder.mkdir(exist_ok=True)
        return take_name(self.engine, folder, node, "1", HubClock(), self.sleep, alone=alone)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.run(self.meanwhile)

    def run(self, work):
        with self.engine.begin() as connection:
            return work(connection)

    def owners(self):
        return self.run(lambda c: set(c.execute(select(hub.c.owner)).scalars()))


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.engine.dispose()


def claim_for(cluster, owner):
    cluster.run(partial(ledger.declare, name="test.one", slots=None))
    cluster.run(partial(ledger.enqueue, name="test.one", subject="t1", submitter="alice"))
    cluster.run(partial(ledger.claim, name="test.one", count=1, owner=owner))


def item(cluster):
    return tuple(cluster.run(lambda c: c.execute(select(work.c.state, work.c.owner, work.c.note)).one()))


def test_the_first_one_enters_at_once(cluster):
    """With a row, and the time of the database."""
    clock = HubClock(lambda: 5.0)
    me = take_name(cluster.engine, cluster.folder, "hub1", "1.0", clock, cluster.sleep, alone=False)
    assert (me.node, me.version) == ("hub1", "1.0")
    assert me.owner.startswith("hub1:")
    assert cluster.owners() == {me.owner}
    assert clock.now() > 1_700_000_000_000
    assert cluster.slept == []


def test_nodes_of_other_names_are_no_matter(cluster):
    """They may enter at any time."""
    one, other = cluster.enter(node="hub1"), cluster.enter("two", node="hub2")
    assert cluster.owners() == {one.owner, other.owner}
    assert cluster.slept == []


def test_our_former_self_is_not_watched(cluster):
    """After a crash the daemon knows its former name by its state folder, and takes back what that held."""
    former = cluster.enter()
    claim_for(cluster, former.owner)
    me = cluster.enter()
    assert me.owner != former.owner
    assert cluster.owners() == {me.owner}
    assert item(cluster) == (READY, None, "recovered")
    assert cluster.slept == []


def test_a_namesake_that_lives_is_not_disturbed(cluster):
    """Another daemon of that name beats while it is watched: the start is refused, and nothing of it is touched."""
    namesake = cluster.enter("elsewhere")
    claim_for(cluster, namesake.owner)
    cluster.meanwhile = lambda c: c.execute(update(hub).values(beat=hub.c.beat + 5000))
    with pytest.raises(StartError, match=r"'hub1' is running on this database: give this one another \[hub\] node"):
        cluster.enter("here")
    assert cluster.slept == [WATCH]
    assert WATCH > 2 * BEAT
    assert cluster.owners() == {namesake.owner}
    assert item(cluster) == (RUNNING, namesake.owner, None)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_namesake_that_is_dead_is_replaced(cluster, leaves):
    """Silent for two heartbeats, or gone meanwhile: the state folder was lost, or the machine changed."""
    namesake = cluster.enter("elsewhere")
    claim_for(cluster, namesake.owner)
    if leaves:
        cluster.meanwhile = lambda c: c.execute(hub.delete())
    me = cluster.enter("here")
    assert cluster.slept == [WATCH]
    assert cluster.owners() == {me.owner}
    assert item(cluster)[0] == READY


def test_on_a_database_of_our_own_nobody_is_watched(cluster):
    """SQLite's file is locked: whoever is in it is dead."""
    cluster.enter("elsewhere")
    me = cluster.enter("here", alone=True)
    assert cluster.slept == []
    assert cluster.owners() == {me.owner}


def test_a_broken_memory_is_a_stranger(cluster):
    """A file that was cut by a crash makes the start slower, never wrong."""
    cluster.enter()
    (cluster.folder / "one" / "hub-hub1.owner").write_text("")
    cluster.enter()
    assert cluster.slept == [WATCH]
    cluster.enter()
    assert cluster.slept == [WATCH]


def test_a_name_is_held_on_this_machine(tmp_path):
    """A second process with the same state folder and node is told who has it and what to do."""
    lock = hold_name(tmp_path, "hub1")
    with pytest.raises(StartError, match=r"node 'hub1' runs already as process \d+.*another \[hub\] node"):
        hold_name(tmp_path, "hub1")
    other = hold_name(tmp_path, "hub2")
    lock.release()
    hold_name(tmp_path, "hub1").release()
    other.release()


@pytest.mark.parametrize(("rival", "wins"), [("hub1:00", False), ("hub1:zz", True)])
def test_of_two_that_enter_at_once_one_gives_way(cluster, monkeypatch, rival, wins):
    """Neither saw the other's row before it wrote its own: the one that sorts first stays, the other leaves no row."""
    enter = presence.enter

    def enter_together(connection, me, clock):
        enter(connection, me, clock)
        connection.execute(insert(hub).values(owner=rival, node="hub1", version="1", beat=1))

    monkeypatch.setattr(presence, "enter", enter_together)
    if wins:
        assert cluster.enter().owner in cluster.owners()
    else:
        with pytest.raises(StartError, match="is starting on this database"):
            cluster.enter()
        assert cluster.owners() == {rival}
