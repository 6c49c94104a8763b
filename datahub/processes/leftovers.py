"""Processes of a job that nobody watches over any more: found by what is on record of it, and killed. Blocking."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from datahub.processes.kernel import Process, send_signal, stat_of, tree

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
        send_signal(found, signal.SIGKILL)
        if not found:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(PAUSE)


def _left_of(job: str, process: str | None) -> Iterator[Process]:
    if process is not None:
        pid, start, its_boot = process.split()
        with suppress(OSError, IndexError):
            facts = stat_of(int(pid))
            if its_boot == boot() and facts[19] == start.encode() and facts[0] not in b"ZX":
                yield Process(int(pid), int(facts[2]), int(start))
                yield from tree(int(pid))
    tag = f"{TAG}={job}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError, IndexError):
                facts = stat_of(int(folder.name))
                if tag in (folder / "environ").read_bytes().split(b"\0"):
                    yield Process(int(folder.name), int(facts[2]), int(facts[19]))
