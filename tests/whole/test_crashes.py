"""`kill -9` at every boundary between two steps of a transfer: it costs time, never data."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest

from tests.whole.daemon import Lost, crashing
from tests.whole.site import BIG, BIG_TREE, Site

STAGING = {
    "submission written, not committed": "datahub.transfers.service:Transfers._submit:after:1",
    "submission committed, not answered": "datahub.queues.embedded:EmbeddedQueue.announce:before:1",
    "stage claimed, not committed": "datahub.transfers.tables:begin_staging:after:1",
    "stage claimed": "datahub.transfers.pipeline:Pipeline.stage:before:1",
    "staged, not written": "datahub.transfers.pipeline:Pipeline.stage:after:1",
    "stage settled, not committed": "datahub.work.lane:write:after:1",
    "stage settled": "datahub.queues.embedded:EmbeddedQueue.announce:before:2",
}
MOVING = {
    "move claimed, not committed": "datahub.transfers.tables:begin_moving:after:1",
    "move claimed": "datahub.transfers.pipeline:Pipeline.move:before:1",
    "copy begun": "datahub.files.copying:copy_bytes:before:1",
    "in the middle of the copy": "datahub.transfers.pipeline:Pipeline._count:after:2",
    "copied, facts not written": "datahub.transfers.movers.local:LocalMover.copy:after:1",
    "facts written, not committed": "datahub.transfers.pipeline:Pipeline._keep:after:1",
    "facts committed, no final name": "datahub.transfers.movers.local:LocalMover.publish:before:1",
    "final name and temporary name": "datahub.transfers.movers.local:_give_name:after:1",
    "final name, not settled": "datahub.transfers.movers.local:LocalMover.publish:after:1",
    "move settled, not committed": "datahub.work.lane:write:after:2",
    "move settled": "datahub.work.lane:Lane._leave:before:2",
}


POINTS = {**STAGING, **MOVING}
CASES = [pytest.param(point, BIG, id=f"{name}, file") for name, point in POINTS.items()]
# A folder differs from a file in how it gets its final name; the rest is checked in the long run.
QUICK = ("in the middle of the copy", "facts committed, no final name", "final name, not settled")
CASES += [
    pytest.param(point, BIG_TREE, id=f"{name}, folder", marks=() if name in QUICK else pytest.mark.slow)
    for name, point in MOVING.items()
]


@pytest.mark.parametrize(("point", "product"), CASES)
def test_a_crash_between_two_steps(site: Site, point: str, product: str) -> None:
    """The transfer succeeds once, nothing partial is ever seen, nothing is left behind, no slot is lost."""
    daemon = site.hub()
    daemon.start(crashing(point))
    destination = site.destination()
    with suppress(Lost):
        daemon.submit(product, destination, "the key")
    assert daemon.ended() == -signal.SIGKILL
    site.check_nothing_partial()

    daemon.start()
    job = daemon.submit(product, destination, "the key")
    site.check_success(daemon.await_final([job]))
    site.check_slots(daemon)
    site.check_settled()
    assert site.rows(f"SELECT count(*) FROM transfer WHERE destination_path = '{destination}'") == [(1,)]


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_crashes_one_after_another(site: Site) -> None:
    """A transfer that meets a crash in each of its lives still succeeds once."""
    daemon = site.hub()
    destination = site.destination()
    for point in list(POINTS.values())[1:]:
        daemon.spawn(crashing(point.rpartition(":")[0] + ":1"))
        with suppress(AssertionError, Lost):
            daemon.await_ready()
            daemon.submit(BIG, destination, "the key")
        if daemon.running:
            daemon.kill()
        site.check_nothing_partial()
    daemon.start()
    job = daemon.submit(BIG, destination, "the key")
    site.check_success(daemon.await_final([job]))
    site.check_settled()
