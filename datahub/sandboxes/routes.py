"""Sandboxes over HTTP: the one call of the sandbox fetcher, unchanged, and what was added to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import quote

import msgspec

from datahub.errors import DatahubError, InvalidRequest
from datahub.kit.clock import rfc3339
from datahub.sandboxes.agents import Entry
from datahub.sandboxes.model import Several, Task
from datahub.sandboxes.service import MANY_LINES, Content, Sandboxes, Wanted
from datahub.web.app import Answer, App, Call, Flow
from datahub.web.disposition import disposition
from datahub.web.pipe import pipe, pour
from datahub.web.request import HubRequest

__all__ = ["SandboxRoutes"]

# It is nobody's but the task's: a browser must not take it for a page of ours.
GUARDS: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
KINDS: Final = {"d": "folder", "-": "file", "l": "link"}

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Lines = Annotated[int, msgspec.Meta(ge=0, le=MANY_LINES)]


class Asked(msgspec.Struct, frozen=True):
    """The parameters of ``/fetch``."""

    filename: str = ""
    run: str | None = None
    tail: Lines | None = None
    offset: Whole | None = None
    length: Whole | None = None
    follow: bool = False
    folder: str = ""


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of a task; ``active`` if it has not ended as far as the master knows."""

    id: str
    name: str
    state: str
    active: bool
    agent: str
    framework: str
    started: str | None = None
    updated: str | None = None


class Runs(msgspec.Struct, frozen=True):
    """Runs, or tasks of which one must be named."""

    items: list[Run]


class File(msgspec.Struct, frozen=True):
    """What is in a sandbox; ``kind`` is file, folder, link or other, ``size`` in bytes."""

    path: str
    kind: str
    size: int
    modified: str
    mode: str
    owner: str
    group: str


class Listing(msgspec.Struct, frozen=True):
    """A folder of the sandbox of ``task``."""

    task: str
    folder: str
    items: list[File]


def refused(_: int, error: DatahubError) -> str:
    """The fetcher's shape of an error: its text."""
    return str(error)


class SandboxRoutes:
    """The resource of sandboxes; an agent that sends nothing for ``stall`` seconds is given up."""

    app = App()

    def __init__(self, sandboxes: Sandboxes, stall: float) -> None:
        self._sandboxes = sandboxes
        self._stall = stall

    @app.operation(
        "GET",
        "/fetch/<task_id>",
        scope="sandbox:read",
        takes=Asked,
        gives={200: Listing, 206: None, 300: Runs},
        refuses=refused,
    )
    async def fetch(self, call: Call, asked: Asked, task_id: str) -> Answer | Flow:
        """Fetch a file from the sandbox of a task, or list it."""
        try:
            if asked.run == "all":
                return Answer(200, Runs([_run(task) for task in await self._sandboxes.runs(task_id)]))
            if asked.filename:
                return await self._file(call, asked, task_id)
            if "application/json" in (call.header("accept") or ""):
                return await self._listing(asked, task_id)
        except Several as several:
            return Answer(300, Runs([_run(task) for task in several.tasks]))
        raise InvalidRequest("Missing filename query parameter", field="filename", code="request.missing")

    async def _listing(self, asked: Asked, task_id: str) -> Answer:
        sandbox, entries = await self._sandboxes.listing(task_id, asked.run, asked.folder)
        listing = Listing(sandbox.task.id, asked.folder, [_file(each) for each in entries])
        return Answer(200, listing, _named(sandbox.task, sandbox.active))

    async def _file(self, call: Call, asked: Asked, task_id: str) -> Flow:
        # A sandbox has no validators, so that an If-Range never holds.
        header = None if call.header("if-range") else call.header("range")
        wanted = Wanted(header, asked.tail, asked.offset, asked.length, asked.follow)
        content = await self._sandboxes.fetch(task_id, asked.run, asked.filename, wanted)
        if call.method == "HEAD":
            content.abort()
        send = _Sending(content, self._stall, self._sandboxes.limit)
        return Flow(206 if content.partial else 200, content.type, content.length, send, _headers(content))


@dataclass(frozen=True, slots=True)
class _Sending:
    """Writes a content to a request."""

    content: Content
    stall: float
    limit: int

    async def __call__(self, request: HubRequest) -> None:
        content = self.content
        if content.incoming is not None:
            most = self.limit if content.length is None and content.pieces is None else None
            await pipe(
                content.incoming,
                request,
                request.site.reactor,
                who=content.who,
                stall=self.stall,
                part=content.part,
                most=most,
            )
        if content.pieces is not None:
            # Who follows a file that stands still is to know at once that it is there.
            request.write(b"")
            await pour(content.pieces, request)


def _headers(content: Content) -> Mapping[str, str]:
    headers: dict[str, str] = {
        **GUARDS,
        **_named(content.task, content.active),
        "Content-Disposition": disposition(content.name),
    }
    if content.encoding:
        headers["Content-Encoding"] = content.encoding
    if content.pieces is None or content.length is not None:
        headers["Accept-Ranges"] = "bytes"
    if content.partial and content.part is not None:
        headers["Content-Range"] = f"bytes {content.part.start}-{content.part.stop - 1}/{content.size}"
    elif content.part is not None and content.size is not None:
        headers |= {"X-Datahub-Offset": str(content.part.start), "X-Datahub-Size": str(content.size)}
    return headers


def _named(task: Task, active: int) -> dict[str, str]:
    """Which run it is, and of how many if it is not the only active one; ids may hold what no header may."""
    headers = {"X-Datahub-Task": quote(task.id, safe=" !#$&'()*+,/:;=?@[]~")}
    if active > 1:
        headers["X-Datahub-Active"] = str(active)
    return headers


def _run(task: Task) -> Run:
    return Run(
        task.id,
        task.name,
        task.state,
        task.active,
        task.agent,
        task.framework,
        _time(task.begun),
        _time(task.changed),
    )


def _time(seconds: float) -> str | None:
    return rfc3339(round(seconds * 1000)) if 0 < seconds < 2**37 else None


def _file(entry: Entry) -> File:
    kind = KINDS.get(entry.mode[:1], "other")
    modified = _time(entry.mtime) or rfc3339(0)
    return File(entry.path, kind, entry.size, modified, entry.mode, str(entry.uid), str(entry.gid))
