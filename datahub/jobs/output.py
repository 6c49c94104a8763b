"""The output of a job as its readers get it: what there is, a part of it, or all from start to end as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Final

from twisted.internet.interfaces import IReactorTime

from datahub.auth.identity import Caller
from datahub.errors import Conflict, InvalidRequest, NotFound, Unavailable
from datahub.jobs import tables
from datahub.jobs.files import Files
from datahub.jobs.model import Job, Spec
from datahub.jobs.service import Jobs
from datahub.kit.aio import fired, leave, sleep
from datahub.processes.output import Dropped, Reader
from datahub.processes.runner import Runner, Written
from datahub.store import Store

__all__ = ["Outputs", "Source"]

STREAMS: Final = ("stdout", "stderr")
RECORDED: Final = 0.05
LOOK_AGAIN: Final = 1.0
"""Seconds after which it is looked again whether a job that waits for its turn was stopped."""


@dataclass(frozen=True, slots=True)
class Source:
    """One stream of one job: which of its files, how much of it is kept, and what was in it when it was asked for."""

    number: str
    index: int
    spec: Spec
    written: Written


class Outputs:
    """Finds and reads what jobs have written. ``node`` is ours: other nodes' files are not here."""

    def __init__(self, jobs: Jobs, store: Store, runner: Runner, files: Files, node: str, clock: IReactorTime) -> None:
        self._jobs = jobs
        self._store = store
        self._runner = runner
        self._files = files
        self._node = node
        self._clock = clock

    async def find(self, caller: Caller, number: str, stream: str) -> Source:
        """The stream, as it is now; raises `NotFound`, `NotPermitted`, `InvalidRequest`, `Conflict`."""
        seen = await self._jobs.find(caller, number)
        self._check_here(seen.job)
        spec = await self._store.read("find a job's spec", partial(tables.find_spec, number=number))
        if spec is None:
            raise NotFound(f"there is no job {number} any more", code="job.not_found")
        index = _index(spec, stream)
        return Source(number, index, spec, seen.written[index] if seen.written else Written())

    def _check_here(self, job: Job) -> None:
        if job.node not in (None, self._node):
            raise Conflict(f"job {job.id} ran on node {job.node}: ask there for its output", code="job.elsewhere")

    async def part(self, source: Source, first: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from ``first`` to ``end``, all of which were written already."""
        reader = self._reader(source)
        try:
            async for piece in _pieces(reader, first, end):
                yield piece
        finally:
            reader.close()

    async def follow(self, source: Source, position: int) -> AsyncGenerator[bytes, None]:
        """All bytes from ``position`` on, as they come, to the end of the job; before its start, too."""
        reader = self._reader(source)
        try:
            over = False
            while not over:
                total, over = await self._grown(source, position)
                async for piece in _pieces(reader, position, total):
                    yield piece
                position = max(position, total)
        finally:
            reader.close()

    def _reader(self, source: Source) -> Reader:
        paths = self._files.output(source.number, separate=source.spec.separate)
        return Reader(paths[source.index], source.spec.keep, self._files.pool)

    async def _grown(self, source: Source, position: int) -> tuple[int, bool]:
        """Wait for more than ``position`` bytes, or for the job's end; how many there are, and whether it ended."""
        while True:
            child = self._runner.find(source.number)
            if child is None or (child.ended is not None and child.ended.lost is not None):
                total = await self._recorded(source)
                if total is not None:
                    return total, True
                continue
            total = child.output[source.index].total
            if child.ended is not None or total > position:
                return total, child.ended is not None
            change = child.change()
            try:
                await change
            finally:
                leave(change)

    async def _recorded(self, source: Source) -> int | None:
        """What the record of a job says that has ended; None, after a while, if it has not."""
        job = await self._store.read("find job", partial(tables.find, number=source.number))
        if job is None:
            raise Unavailable(f"job {source.number} was deleted")
        if job.status.final:
            return job.output[source.index].total if job.output else 0
        self._check_here(job)
        appears = self._runner.appears(source.number)
        try:
            if self._runner.find(source.number) is not None:
                # It has ended here, and is about to be recorded.
                await sleep(RECORDED, self._clock)
            else:
                await fired(appears, LOOK_AGAIN, self._clock)
        finally:
            leave(appears)
        return None


async def _pieces(reader: Reader, first: int, end: int) -> AsyncGenerator[bytes, None]:
    while first < end:
        try:
            piece = await reader.read(first, end - first)
        except Dropped as error:
            raise Unavailable(f"the reader is too slow: {error}") from None
        if not piece:
            raise Unavailable("the output is not there any more")
        yield piece
        first += len(piece)


def _index(spec: Spec, stream: str) -> int:
    if spec.separate:
        if stream not in STREAMS:
            raise InvalidRequest("the job writes apart: say stream=stdout or stream=stderr", field="stream")
        return STREAMS.index(stream)
    if stream:
        raise InvalidRequest(
            "the job writes both streams as one: leave stream out, or create it with separate=true", field="stream"
        )
    return 0
