"""What is left of a job when daemon, supervisor and wardens were killed together."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from datahub.processes.kernel import start_of
from datahub.processes.leftovers import TAG, boot, kill_leftovers


@contextmanager
def process(environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a shell with children; it goes on when one of them is killed before it."""
    command = "sleep 60 & while true; do sleep 61; done"
    environ = {"PATH": "/usr/bin:/bin", **environ}
    with subprocess.Popen(["bash", "-c", command], env=environ, start_new_session=True) as popen:
        try:
            yield popen
        finally:
            popen.kill()


def test_it_is_known_by_its_environment() -> None:
    """All that has the job's tag, and nothing of another job."""
    with process({TAG: "left-1"}) as mine, process({TAG: "left-11"}) as other:
        time.sleep(0.1)
        assert kill_leftovers("left-1", None, 10)
        assert mine.wait(10) == -9
        assert other.poll() is None
        assert kill_leftovers("left-11", None, 10)
        assert kill_leftovers("left-1", None, 0)


def test_it_is_known_by_its_record() -> None:
    """Pid, start and boot find one that wiped its environment; one that has the pid by chance is another."""
    with process({}) as popen:
        start = start_of(popen.pid)
        for record in (f"{popen.pid} {start + 1} {boot()}", f"{popen.pid} {start} another-boot", "999999999 1 x"):
            assert kill_leftovers("left-2", record, 0)
            assert popen.poll() is None
        assert kill_leftovers("left-2", f"{popen.pid} {start} {boot()}", 10)
        assert popen.wait(10) == -9
