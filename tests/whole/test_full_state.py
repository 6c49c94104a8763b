"""The disk of the state folder fills up: what is new is refused with figures, what was accepted is finished."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import MISSING, services_required
from tests.whole.daemon import Answer, Daemon, crashing, until
from tests.whole.site import BIG, FILE, MIB, Site

SLOW_COPY = crashing("datahub.transfers.pipeline:Pipeline._count:pause:2")


@pytest.fixture
def small_state(tmp_path: Path) -> Iterator[Site]:
    """Give a site whose state, with the database, lies on a disk of 24 MiB."""
    state = tmp_path / "state"
    state.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(state)]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        (pytest.fail if services_required() else pytest.skip)(f"{MISSING}mount ({tried.stderr.strip()}); be root")
    site = Site(tmp_path, f"sqlite:///{state / 'datahub.sqlite'}")
    try:
        yield site
    finally:
        site.close()
        subprocess.run(["umount", "-l", str(state)], check=True)


def fill(path: Path, size: int) -> None:
    """Take ``size`` bytes of the disk, or all there is."""
    with path.open("wb", buffering=0) as filler:
        try:
            for _ in range(0, size, 4096):
                filler.write(bytes(4096))
        except OSError:
            pass


def ask(daemon: Daemon, site: Site, key: str | None = None, destination: str = "") -> Answer:
    """Submit something."""
    return daemon.post({"product_id": FILE, "destination_path": destination or site.destination()}, key)


def check_refused(answer: Answer) -> None:
    """It is a 507 that tells how much there is, how much there should be, and when to come again."""
    assert answer.status == 507, answer
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["X-Datahub-Error"] == "hub.no_space"


def test_below_the_reserve_and_full(small_state: Site) -> None:
    """Below min_free nothing new is taken and all else goes on; a full disk is no 500; then all is well again."""
    site = small_state
    filler = site.folder / "state" / "filler"
    daemon = site.hub(sections={"hub": {"min_free": "8 MB"}})
    daemon.start(SLOW_COPY)
    place = site.destination()
    known = ask(daemon, site, "key", place)
    failed = daemon.submit("nowhere", site.destination())
    running = [daemon.submit(BIG, site.destination()) for _ in range(2)]
    daemon.await_status(failed, "ERROR")
    fill(filler, 17 * MIB)
    until(lambda: daemon.call("GET", "/ready").status == 503, "the reserve is noticed")
    refused = ask(daemon, site)
    check_refused(refused)
    assert "less than the 8 MB that [hub] min_free keeps" in refused.json["msg"]
    check_refused(daemon.call("POST", f"/transfers/{failed}/retry"))
    again = ask(daemon, site, "key", place)
    assert (again.status, again.json["job_id"]) == (202, known.json["job_id"])
    assert ask(daemon, site, "key").status == 409
    site.check_success(daemon.await_final([*running, known.json["job_id"]]))
    daemon.stop()

    filler.unlink()
    daemon = site.hub(sections={"hub": {"min_free": "0 B"}})
    daemon.start()
    running = [daemon.submit(BIG, site.destination())]
    fill(filler, 24 * MIB)
    answers = [ask(daemon, site) for _ in range(30)]
    assert {each.status for each in answers} <= {202, 507, 503}, answers
    assert "bytes are free" in answers[-1].json["msg"]
    full = [each for each in answers if each.status != 202]
    assert full
    assert all(int(each.headers["Retry-After"]) > 0 for each in full)
    assert daemon.status(running[0])["job_id"] == running[0]
    filler.unlink()
    accepted = [each.json["job_id"] for each in answers if each.status == 202]
    site.check_success(daemon.await_final([*running, *accepted, daemon.submit(FILE, site.destination())]))
    site.check_settled()
    assert "Traceback" not in daemon.log
