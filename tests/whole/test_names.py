"""A node's name is borne by one daemon at a time."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.whole.daemon import Daemon, crashing, until
from tests.whole.site import BIG, Site

pytestmark = pytest.mark.engine

SLOW_COPY = crashing("datahub.transfers.pipeline:Pipeline._count:pause:2")
WATCH = 11.0
WATCHING = "has been here: watching it"


def killed_in_a_copy(site: Site, daemon: Daemon) -> str:
    """Start ``daemon``, kill it while it copies, and give the transfer's id."""
    daemon.start(SLOW_COPY)
    job = site.submit(daemon, BIG)
    until(site.leftovers, "a copy under way")
    daemon.kill()
    assert site.running("move") == 1
    return job


def test_own_former_self(postgresql_site: Site) -> None:
    """After a crash the daemon starts at once, and takes its work back."""
    site = postgresql_site
    daemon = site.hub()
    job = killed_in_a_copy(site, daemon)
    daemon.start()
    assert WATCHING not in daemon.log
    site.check_success(daemon.await_final([job]))
    site.check_settled()


def test_same_state_folder(postgresql_site: Site) -> None:
    """A second daemon with the first one's state folder is refused at once."""
    site = postgresql_site
    site.hub().start()
    second = site.hub()
    second.spawn()
    assert second.ended() == 1
    assert WATCHING not in second.log
    (line,) = second.stderr.splitlines()
    assert line.startswith("datahub: node 'hub1' runs already as process")


@pytest.mark.slow
def test_other_state_folder(postgresql_site: Site) -> None:
    """A second daemon of that name somewhere else is refused when the first was seen to live; that one works on."""
    site = postgresql_site
    first = site.hub()
    first.start()
    second = site.hub(state="elsewhere")
    second.spawn()
    assert second.ended(WATCH + 40) == 1
    assert second.stderr.splitlines() == [
        "datahub: another daemon called 'hub1' is running on this database: give this one another [hub] node"
    ]
    site.check_success(first.await_final([site.submit(first, BIG)]))


@pytest.mark.slow
def test_state_folder_that_was_lost(postgresql_site: Site) -> None:
    """A daemon that does not know its former self watches it, finds it dead and takes its work back."""
    site = postgresql_site
    daemon = site.hub()
    job = killed_in_a_copy(site, daemon)
    shutil.rmtree(site.folder / "state")
    begun = time.monotonic()
    daemon.start()
    assert time.monotonic() - begun > WATCH - 1
    assert WATCHING in daemon.log
    site.check_success(daemon.await_final([job]))
    site.check_settled()
