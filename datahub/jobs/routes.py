"""Jobs over HTTP: the three calls of rest-job-worker, unchanged, and those of our own grammar."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Final, Literal

import msgspec

from datahub.errors import InvalidRequest, RangeNotSatisfiable
from datahub.events import Event
from datahub.jobs.model import Change, Creation, Filter, Status
from datahub.jobs.output import Outputs, Source
from datahub.jobs.service import Jobs, Seen
from datahub.jobs.view import LOGS, View, view
from datahub.web.app import Answer, App, Call, Flow
from datahub.web.lists import Cursor, ListQuery, Look, page_of, parse_wait, read_filter
from datahub.web.live import Live
from datahub.web.pipe import pour
from datahub.web.ranges import Span, Unsatisfiable, span
from datahub.web.request import HubRequest

__all__ = ["JobRoutes"]

# It is nobody's but the job's: a browser must not take it for a page of ours.
GUARDS: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Accept-Ranges": "bytes"}
BYTES: Final = "application/octet-stream"

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class JobQuery(ListQuery, frozen=True, kw_only=True):
    """Which jobs: besides what every list has, the exact ``name``."""

    name: str = ""


class OutputQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of the output: from ``offset`` on, or the last ``tail`` bytes; ``follow`` to the end of the job."""

    stream: Literal["", "stdout", "stderr"] = ""
    offset: Whole | None = None
    tail: Whole | None = None
    follow: bool = False


class Views(msgspec.Struct, frozen=True):
    """A page of jobs; ``next`` is the cursor of the next one."""

    items: list[View]
    next: str | None


class Timeline(msgspec.Struct, frozen=True):
    """All that happened to one job, oldest first."""

    items: list[Event]


class JobRoutes:
    """The resource of jobs. They are never open to callers without credentials."""

    app = App(strangers=False)

    def __init__(self, jobs: Jobs, outputs: Outputs) -> None:
        self._jobs = jobs
        self._outputs = outputs

    @app.operation("POST", "/jobs", scope="jobs:write", takes=Creation, gives={201: View})
    async def create(self, call: Call, creation: Creation) -> Answer:
        """Create a job, and with ``start`` let it run."""
        seen = await self._jobs.create(call.caller, creation, call.header("Idempotency-Key"))
        return Answer(201, await self._view(seen), {"Location": f"/jobs/{seen.job.id}"})

    @app.operation("PUT", "/jobs/<number>", scope="jobs:write", takes=Change, gives={200: View})
    async def change(self, call: Call, change: Change, number: str) -> View:
        """Start a job, or stop it: then the answer comes when no process of it is left."""
        if change.status == Status.STARTED:
            return await self._view(await self._jobs.start(call.caller, number))
        if change.status == Status.STOPPED:
            return await self._view(await self._jobs.stop(call.caller, number))
        raise InvalidRequest(f"status is {change.status[:40]!r}; it must be started or stopped", field="status")

    @app.operation("GET", "/jobs/<number>", scope="jobs:read", takes=Look, gives={200: View})
    async def show(self, call: Call, look: Look, number: str) -> View | Live:
        """Tell how a job is doing: now, when it is over, or at each change."""
        if look.watch:
            await self._jobs.find(call.caller, number)
            return Live(self._views(call, number))
        return await self._view(await self._jobs.await_final(call.caller, number, parse_wait(look.wait)))

    @app.operation("GET", "/jobs", scope="jobs:read", takes=JobQuery, gives={200: Views})
    async def list(self, call: Call, query: JobQuery) -> Answer:
        """List jobs; their logs are left out."""
        submitter = self._jobs.whose(call.caller, query.submitter)
        wanted = replace(read_filter(Filter, query, submitter, Status), name=query.name or None)
        found = await self._jobs.find_many(call.caller, wanted)
        items = [view(each, b"", self._jobs.rules.keep) for each in found[: query.limit]]
        last = found[query.limit - 1].job if len(found) > query.limit else None
        return page_of(call, items, None if last is None else Cursor(last.time_created, last.id))

    @app.operation("DELETE", "/jobs/<number>", scope="jobs:write", gives={204: None})
    async def delete(self, call: Call, number: str) -> Answer:
        """Forget a job that is over, with its output."""
        await self._jobs.delete(call.caller, number)
        return Answer(204)

    @app.operation("GET", "/jobs/<number>/events", scope="jobs:read", gives={200: Timeline})
    async def timeline(self, call: Call, number: str) -> Timeline:
        """Tell all that happened to a job."""
        return Timeline(list(await self._jobs.timeline(call.caller, number)))

    @app.operation("GET", "/jobs/<number>/output", scope="jobs:read", takes=OutputQuery, gives={200: None, 206: None})
    async def output(self, call: Call, query: OutputQuery, number: str) -> Flow:
        """Give what a job has written; with follow=1 from its start to its end, as it comes."""
        source = await self._outputs.find(call.caller, number, query.stream)
        written = source.written
        first = _first(query, source)
        if query.follow:
            return _flow(200, None, first, source, partial(self._follow, source, first))
        part = _span(call.header("range") if query.offset is None and query.tail is None else None, source)
        if part is None:
            return _flow(
                200, max(0, written.total - first), first, source, partial(self._send, source, first, written.total)
            )
        send = partial(self._send, source, part.first, part.end)
        ranged = {"Content-Range": part.content_range}
        return _flow(206, part.end - part.first, part.first, source, send, ranged)

    async def _follow(self, source: Source, first: int, request: HubRequest) -> None:
        # The headers go out at once: it may be long until the job says something.
        request.write(b"")
        await pour(self._outputs.follow(source, first), request)

    async def _send(self, source: Source, first: int, end: int, request: HubRequest) -> None:
        await pour(self._outputs.part(source, first, end), request)

    async def _views(self, call: Call, number: str) -> AsyncIterator[View | None]:
        async for seen in self._jobs.watch(call.caller, number):
            yield None if seen is None else await self._view(seen)

    async def _view(self, seen: Seen) -> View:
        return view(seen, await self._jobs.logs(seen, LOGS), self._jobs.rules.keep)


def _flow(
    status: int,
    length: int | None,
    first: int,
    source: Source,
    send: Callable[[HubRequest], Awaitable[None]],
    more: dict[str, str] | None = None,
) -> Flow:
    name = f"job-{source.number}{('.out', '.err')[source.index]}"
    headers = {
        **GUARDS,
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-cache",
        "X-Output-Offset": str(first),
        "X-Accel-Buffering": "no",
        **(more or {}),
    }
    return Flow(status, BYTES, length, send, headers)


def _first(query: OutputQuery, source: Source) -> int:
    """Where to begin; raises `RangeNotSatisfiable` for what was dropped."""
    written = source.written
    if query.offset is not None and query.tail is not None:
        raise InvalidRequest("offset and tail are both given; one is right", field="tail")
    if query.tail is not None:
        return max(written.total - query.tail, written.dropped)
    if query.offset is None:
        return written.dropped
    if query.offset < written.dropped or (query.offset > written.total and not query.follow):
        raise RangeNotSatisfiable(
            f"offset {query.offset}: the output from {written.dropped} to {written.total} is kept", size=written.total
        )
    return query.offset


def _span(wanted: str | None, source: Source) -> Span | None:
    written = source.written
    try:
        part = span(wanted, written.total)
    except Unsatisfiable:
        raise RangeNotSatisfiable(f"the output has {written.total} bytes so far", size=written.total) from None
    if part is not None and part.first < written.dropped:
        raise RangeNotSatisfiable(f"the output before byte {written.dropped} was dropped", size=written.total)
    return part
