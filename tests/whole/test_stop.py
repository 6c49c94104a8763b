"""The stop in good order: what can end soon ends, what can't is given back."""

from __future__ import annotations

import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.whole.daemon import crashing, until
from tests.whole.site import BIG, FILE, Site

SLOW_COPY = "datahub.transfers.pipeline:Pipeline._count:pause:1"
SLOW_SUBMISSION = "datahub.transfers.service:Transfers._submit:pause:3"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_in_the_middle_of_a_copy(site: Site, number: int) -> None:
    """The daemon ends without waiting for it, the work is given back, the next start finishes it."""
    daemon = site.hub()
    daemon.start(crashing(SLOW_COPY))
    job = site.submit(daemon, BIG)
    until(site.leftovers, "a copy under way")
    daemon.process.send_signal(number)  # type: ignore[union-attr]  # it was started
    assert daemon.ended(30) in {0, -number}
    assert "datahub has stopped" in daemon.log
    assert [(row.state, row.owner) for row in site.rows("SELECT state, owner FROM work")] == [("ready", None)]
    assert site.rows("SELECT * FROM hub") == []
    assert [each for folder in site.deliveries.iterdir() for each in folder.iterdir()] == []

    daemon.start()
    site.check_success(daemon.await_final([job]))
    site.check_settled()


def test_request_under_way_is_answered(site: Site) -> None:
    """A stop waits for it, and takes no further one."""
    daemon = site.hub()
    daemon.start(crashing(SLOW_SUBMISSION))
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(daemon.post, {"product_id": FILE, "destination_path": site.destination()})
        until(lambda: "pausing in _submit" in daemon.log, "a request under way")
        assert not answer.done()
        daemon.stop(40)
        assert answer.result().status == 202
    daemon.start()
    site.check_success(daemon.await_final([answer.result().json["job_id"]]))


def test_drain_has_an_end(site: Site) -> None:
    """A request that takes longer than the drain does not hold the stop."""
    daemon = site.hub(sections={"hub": {"drain": "1 s"}})
    daemon.start(crashing("datahub.transfers.service:Transfers._submit:pause:6"))
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(daemon.post, {"product_id": FILE, "destination_path": site.destination()})
        until(lambda: "pausing in _submit" in daemon.log, "a request under way")
        daemon.stop(40)
        assert answer.exception() is not None or answer.result().status in {202, 503}


def test_systemd_is_told(site: Site, tmp_path: Path) -> None:
    """READY=1 once the hub takes work, STOPPING=1 when its stop begins."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        daemon = site.hub(environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        daemon.spawn()
        assert systemd.recv(100) == b"READY=1"
        assert daemon.call("GET", "/ready").status == 200
        daemon.stop()
        assert systemd.recv(100) == b"STOPPING=1"
