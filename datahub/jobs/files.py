"""Where the output of jobs lies on this node, and their input while they run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from datahub.errors import StartError
from datahub.kit.threads import Pool

__all__ = ["Files"]

OUTPUT, SEPARATE, STDIN = "out", "err", "in"


class Files:
    """The files of jobs, below ``folder``; those of a job begin with its id. ``pool`` is where they are read."""

    def __init__(self, folder: Path, pool: Pool) -> None:
        self.folder = folder
        self.pool = pool
        self._with_stdin: set[str] = set()

    def start(self) -> None:
        """Make the folder; raises `StartError`."""
        try:
            self.folder.mkdir(mode=0o750, exist_ok=True)
        except OSError as error:
            raise StartError(f"the folder {self.folder} for the output of jobs can't be made: {error}") from error
        self.pool.start()

    async def stop(self) -> None:
        """End the threads."""
        await self.pool.stop()

    def output(self, number: str, *, separate: bool) -> list[Path]:
        """The files of what a job writes: of both streams, or of stdout and stderr."""
        kinds = (OUTPUT, SEPARATE) if separate else (OUTPUT,)
        return [self.folder / f"{number}.{kind}" for kind in kinds]

    async def put_stdin(self, number: str, text: str | None) -> str | None:
        """Lay down what a job is to read; the path of it."""
        if text is None:
            return None
        path = self.folder / f"{number}.{STDIN}"
        self._with_stdin.add(number)
        await self.pool.run(_write, path, text.encode())
        return str(path)

    def drop_stdin(self, number: str) -> None:
        """Remove it again."""
        if number in self._with_stdin:
            self._with_stdin.discard(number)
            with suppress(OSError):
                (self.folder / f"{number}.{STDIN}").unlink()

    async def remove(self, numbers: Iterable[str]) -> None:
        """Remove all files of jobs; those that are not here are on another node."""
        await self.pool.run(self._remove, list(numbers))

    def _remove(self, numbers: list[str]) -> None:
        for number in numbers:
            for kind in (OUTPUT, SEPARATE, STDIN):
                with suppress(FileNotFoundError):
                    (self.folder / f"{number}.{kind}").unlink()

    async def older_than(self, age: float, now: float) -> set[str]:
        """The jobs that have files here which were not written for ``age`` seconds; ``now`` in seconds since 1970."""
        return await self.pool.run(self._older_than, age, now)

    def _older_than(self, age: float, now: float) -> set[str]:
        found = set()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                number, _, kind = entry.name.partition(".")
                if kind in (OUTPUT, SEPARATE, STDIN) and now - entry.stat(follow_symlinks=False).st_mtime > age:
                    found.add(number)
        return found


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
