"""The machine's clock is set by an hour while the hub runs: nothing stands still, nothing comes early."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.servers import MISSING, services_required
from tests.whole.daemon import SOON, Daemon, until
from tests.whole.site import FILE, Site

# The one for programs with threads: the other reads its file into memory that all of them share.
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
BEAT = 5.0
HOUR = 3600


class Clock:
    """The wall clock of a daemon, by libfaketime; what runs monotonically stays."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set the clock by so much from the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Else it reckons by the wrong clock how long Python's threads wait for each other: with glibc 2.36 not at
            # all, and sometimes a daemon that was to stop never did.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """Give a clock that can be set."""
    if not LIBRARIES:
        (pytest.fail if services_required() else pytest.skip)(f"{MISSING}faketime; install Debian's package of it")
    return Clock(tmp_path / "clock")


@pytest.fixture
def daemon(site: Site, clock: Clock) -> Daemon:
    """Give a running hub with that clock."""
    daemon = site.hub(environ=clock.environ)
    daemon.start()
    return daemon


@pytest.mark.parametrize("step", [-HOUR, pytest.param(HOUR, marks=pytest.mark.slow)])
def test_clock_is_set(site: Site, clock: Clock, daemon: Daemon, step: int) -> None:
    """A delayed retry comes when it is due and not before; what is submitted now goes through at once."""
    site.deliveries.rename(site.folder / "away")
    late = site.submit(daemon, FILE)
    until(lambda: daemon.status(late).get("attempts") == 3, "the third try")
    waiting = daemon.await_retry(late)
    due = time.monotonic() + _seconds(waiting["waiting_on"]["next_at"]) - time.time()
    (site.folder / "away").rename(site.deliveries)
    clock.set(step)

    begun = time.monotonic()
    site.check_success(daemon.await_final([site.submit(daemon, FILE)], SOON))
    while time.monotonic() < due - 0.3:
        assert daemon.status(late)["attempts"] == waiting["attempts"]
        time.sleep(0.1)
    site.check_success(daemon.await_final([late], SOON))

    time.sleep(max(0.0, begun + BEAT + 0.5 - time.monotonic()))
    shown = daemon.await_final([site.submit(daemon, FILE)], SOON)
    site.check_success(shown)
    assert abs(_seconds(shown[0]["time_success"]) - time.time() - step) < 10
    site.check_settled()
    daemon.stop()


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
