"""Hubs that are killed, and servers that stay away, while files go by GridFTP: it costs time, never data."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from tests.whole.daemon import Lost, crashing, until
from tests.whole.grid import contents, sections
from tests.whole.site import BIG, TREE

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

POINTS = {
    "in the middle of the copy": "datahub.transfers.pipeline:Pipeline._count:after:1",
    "copied, facts not written": "datahub.transfers.movers.gfal:GfalMover.copy:after:1",
    "facts written, not committed": "datahub.transfers.pipeline:Pipeline._keep:after:1",
    "facts committed, no final name": "datahub.transfers.movers.gfal:GfalMover.publish:before:1",
    "final name, not settled": "datahub.transfers.movers.gfal:GfalMover.publish:after:1",
    "move settled, not committed": "datahub.work.lane:write:after:2",
}
PUBLISHED = (POINTS["final name, not settled"], POINTS["move settled, not committed"])
# A folder of many files differs in how it is copied and recognised; the rest is checked in the long run.
QUICK = ("copied, facts not written", "final name, not settled")
CASES = [pytest.param(point, BIG, id=f"{name}, file") for name, point in POINTS.items()]
CASES += [
    pytest.param(point, TREE, id=f"{name}, folder", marks=() if name in QUICK else pytest.mark.slow)
    for name, point in POINTS.items()
]
LARGE = 300_000_000


@pytest.mark.parametrize(("point", "product"), CASES)
def test_a_crash_between_two_steps(site, grid, proxy, point, product):
    """There is one copy in the end, whole, and nothing beside it; one that had its name is not made again."""
    daemon = site.hub(sections=sections(grid, proxy))
    daemon.start(crashing(point))
    there = site.deliveries / "alice"
    with suppress(Lost):
        daemon.submit(product, grid.url(there), "the key")
    assert daemon.ended() == -signal.SIGKILL
    final = there / product
    assert final.exists() == (point in PUBLISHED)
    made = final.stat().st_ino if final.exists() else 0
    daemon.start()
    job = daemon.submit(product, grid.url(there), "the key")
    (seen,) = daemon.await_final([job])
    assert seen["status"] == "SUCCESS", seen
    assert [each.name for each in there.iterdir()] == [product]
    assert contents(final) == contents(site.archive / product)
    assert made in {0, final.stat().st_ino}
    assert site.rows("SELECT * FROM work") == []
    daemon.stop()


def test_what_was_given_up_is_removed_when_the_server_is_back(site, grid, proxy):
    """The server was killed in the middle and stayed away: the record names what is left, until it goes."""
    daemon = site.hub(sections={**sections(grid, proxy), "transfers": {"retry_for": "1 s"}})
    daemon.start()
    os.truncate(os.open(site.archive / "large", os.O_CREAT | os.O_WRONLY), LARGE)
    there = site.deliveries / "erin"
    job = daemon.submit("large", grid.url(there))
    until(lambda: any(each.stat().st_size for each in there.glob(".datahub-*")), "bytes arrive", 60)
    grid.kill()
    (seen,) = daemon.await_final([job])
    (left,) = there.iterdir()
    assert seen["status"] == "ERROR"
    assert "given up after" in seen["detailed_status"]
    assert f"what may be left of it, .datahub-{job}-*, is removed" in seen["detailed_status"]
    assert left.name.startswith(f".datahub-{job}-")
    until(lambda: site.rows("SELECT due FROM work WHERE lane = 'transfers.tidy' AND due > 0"), "it is put off")
    grid.start()
    site.write("UPDATE work SET due = 1")
    until(lambda: not left.exists(), "nothing is left")
    until(lambda: site.rows("SELECT * FROM work") == [], "nothing is to be done")
    daemon.stop()
