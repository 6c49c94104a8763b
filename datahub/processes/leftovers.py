"""Processes of a job that nobody watches over any more: found by what is on record of it, and killed. Blocking."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from datahub.processes.kernel import start_of, tree

__all__ = ["TAG", "boot", "kill_leftovers"]

TAG: Final = "DATAHUB_JOB"
"""The variable that names its job to each process of it."""

PAUSE: Final = 0.02


def boot() -> str:
    """The id of this start of the machine: pids mean nothing beyond it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def kill_leftovers(job: str, process: str | None, patience: float) -> bool:
    """Kill what is left of ``job``, again and again for ``patience`` seconds; whether nothing is left.

    ``process`` is its first one, as ``PID START BOOT``. Others are known by descent from it, or by their environment.
    """
    until = time.monotonic() + patience
    while True:
        found = set(_left_of(job, process))
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(PAUSE)


def _left_of(job: str, process: str | None) -> Iterator[int]:
    if process is not None:
        pid, start, its_boot = process.split()
        with suppress(OSError, IndexError):
            if its_boot == boot() and start_of(int(pid)) == int(start) and _lives(int(pid)):
                yield int(pid)
                yield from (each for each, _ in tree(int(pid)))
    tag = f"{TAG}={job}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if tag in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split(None, 1)[0] not in (b"Z", b"X")
