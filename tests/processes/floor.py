"""A supervisor of one's own, and what may be left of its jobs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from datahub.processes.leftovers import TAG
from datahub.processes.runner import Ended, Order, Runner

__all__ = ["Floor", "opened", "tagged"]

ENVIRON = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


def tagged(*jobs: str) -> list[str]:
    """The processes that run for ``jobs`` (default: all), as their command lines."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            if any(f"{TAG}={job}".encode() in variables for job in jobs):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


class Floor:
    """Jobs with a name each, run by a real supervisor."""

    def __init__(self, folder: Path, reactor: Any) -> None:
        self.folder = folder
        self.runner = Runner(folder / "lock", reactor)
        self._numbers = iter(range(1000))

    def order(self, argv: list[str] | str, **more: Any) -> Order:
        job = f"test-{os.getpid()}-{id(self)}-{next(self._numbers)}"
        values: dict[str, Any] = {
            "job": job,
            "argv": ["bash", "-c", argv] if isinstance(argv, str) else argv,
            "env": {**ENVIRON, TAG: job},
            "cwd": "/tmp",
            "timeout": 60.0,
            "grace": 5.0,
            "limits": {},
            "output": [str(self.folder / f"{job}.out")],
            "keep": 1 << 30,
        }
        return Order(**{**values, **more})

    async def run(self, argv: list[str] | str, **more: Any) -> tuple[Ended, bytes]:
        """How a job ended, and what it wrote into its first file; nothing of it is left then."""
        order = self.order(argv, **more)
        child = await self.runner.run(order)
        ended = await child.end()
        assert tagged(order.job) == []
        self.runner.forget(order.job)
        return ended, self.read(order)

    def read(self, order: Order, index: int = 0) -> bytes:
        path = Path(order.output[index])
        return path.read_bytes() if path.exists() else b""


@asynccontextmanager
async def opened(folder: Path, reactor: Any) -> AsyncIterator[Floor]:
    """Give a floor whose supervisor runs, and end that."""
    floor = Floor(folder, reactor)
    floor.runner.start()
    try:
        yield floor
    finally:
        await floor.runner.stop()
