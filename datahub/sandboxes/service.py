"""What can be asked of sandboxes: a file or a part of it, what is in a folder, and which runs there were."""

from __future__ import annotations

import mimetypes
import posixpath
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from twisted.logger import Logger

from datahub.errors import InvalidRequest, NotFound, RangeNotSatisfiable, UpstreamFault
from datahub.sandboxes.agents import PAGE, Entry, NoFile
from datahub.sandboxes.following import Watches
from datahub.sandboxes.mesos import Mesos, Sandbox, gone
from datahub.sandboxes.model import Task, best_first, choose, inside, summary
from datahub.sandboxes.wire import Incoming
from datahub.web.ranges import Span, Unsatisfiable, span

__all__ = ["Content", "Sandboxes", "Wanted"]

log = Logger()

MIB: Final = 1024 * 1024
MANY_LINES: Final = 1_000_000
# Bytes skipped on a download are cheaper by so much than bytes read page by page.
CHEAPER: Final = 8
# So often it is looked anew where a file stands that is rotated meanwhile.
TRIES: Final = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of a file: by a Range header, or the last lines, or from an offset; and whether to follow it."""

    range: str | None = None
    tail: int | None = None
    offset: int | None = None
    length: int | None = None
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of a file of ``task`` on their way; so many of its like are ``active``.

    ``incoming`` (of which only ``part`` is wanted) goes before ``pieces``. ``size`` is that of the file if it is
    known, ``partial`` whether a Range was asked for, ``length`` how many bytes come, None if only the end will tell.
    """

    task: Task
    active: int
    who: str
    name: str
    type: str
    encoding: str | None = None
    size: int | None = None
    length: int | None = None
    partial: bool = False
    part: range | None = None
    incoming: Incoming | None = None
    pieces: AsyncGenerator[bytes, None] | None = None

    def abort(self) -> None:
        """Let go of it, unread."""
        if self.incoming is not None:
            self.incoming.abort()


class Sandboxes:
    """The verbs; nothing larger than ``limit`` bytes is given at once."""

    def __init__(self, mesos: Mesos, watches: Watches, limit: int) -> None:
        self._mesos = mesos
        self._watches = watches
        self.limit = limit

    async def runs(self, name: str) -> list[Task]:
        """All runs that ``name`` means, the one that is taken unasked first; raises `NotFound`."""
        return best_first(await self._mesos.tasks(name))

    async def listing(self, name: str, run: str | None, folder: str) -> tuple[Sandbox, list[Entry]]:
        """What is in a folder of the sandbox; raises as `fetch` does."""
        sandbox = await self._sandbox(name, run)
        within = inside(folder, "folder")
        place, entries = await self._anywhere(sandbox, within, sandbox.files.browse)
        return sandbox, [_relative(each, place[: len(place) - len(within)]) for each in entries]

    async def fetch(self, name: str, run: str | None, filename: str, wanted: Wanted) -> Content:
        """The bytes of a file, or the part that is ``wanted``.

        Raises `Several`, `NotFound`, `Gone`, `InvalidRequest` (too large, a folder, outside of the sandbox),
        `RangeNotSatisfiable`, `UpstreamFault`.
        """
        path = inside(filename)
        if not path:
            raise InvalidRequest("Cannot download a directory.", field="filename", code="sandbox.directory")
        sandbox = await self._sandbox(name, run)
        if wanted.follow:
            return await self._follow(sandbox, path, wanted)
        if wanted == Wanted():
            return await self._whole(sandbox, path)
        place, size = await self._anywhere(sandbox, path, sandbox.files.size)
        if wanted.tail is not None or wanted.offset is not None or wanted.length is not None:
            return await self._part(sandbox, place, size, await self._sliced(sandbox, place, size, wanted))
        part = _spanned(wanted.range, size)
        if part is None:
            return await self._whole(sandbox, path)
        return await self._part(sandbox, place, size, range(part.first, part.end), partial=True)

    async def _sandbox(self, name: str, run: str | None) -> Sandbox:
        task, active = choose(await self._mesos.tasks(name), run)
        log.debug("{name} means {task}", name=name, **summary(task))
        return replace(await self._mesos.sandbox(task), active=active)

    async def _anywhere(self, sandbox: Sandbox, path: str, ask: Callable[[str], Awaitable[T]]) -> tuple[str, T]:
        """The first of the sandbox's folders that has ``path``, and what ``ask`` says of it; raises `NotFound`."""
        for folder in sandbox.folders:
            place = f"{folder}/{path}" if path else folder
            try:
                return place, await ask(place)
            except NoFile:
                continue
        for folder in sandbox.folders if path else ():
            try:
                await sandbox.files.browse(folder)
            except NoFile:
                continue
            raise NoFile("Not found")
        raise NotFound("Not found", code="sandbox.not_found") if sandbox.task.active else gone(sandbox.task)

    async def _whole(self, sandbox: Sandbox, path: str) -> Content:
        _, incoming = await self._anywhere(sandbox, path, sandbox.files.download)
        try:
            self._check(incoming.length or 0)
        except InvalidRequest:
            incoming.abort()
            raise
        length = incoming.length
        return replace(_content(sandbox, path, incoming), size=length, length=length)

    async def _part(self, sandbox: Sandbox, place: str, size: int, part: range, *, partial: bool = False) -> Content:
        self._check(len(part))
        about: dict[str, Any] = {"size": size, "length": len(part), "partial": partial, "part": part}
        if part.start > max(MIB, CHEAPER * len(part)) or not part:
            pieces = self._pages(sandbox, place, part)
            return replace(_content(sandbox, place), **about, pieces=pieces)
        incoming = await sandbox.files.download(place)
        if incoming.length is not None and incoming.length < part.stop:
            incoming.abort()
            raise _changed(sandbox)
        return replace(_content(sandbox, place, incoming), **about)

    async def _pages(self, sandbox: Sandbox, place: str, part: range) -> AsyncGenerator[bytes, None]:
        """``part`` of a file, page by page; a file that became shorter meanwhile is no end, but a fault."""
        position = part.start
        while position < part.stop:
            data = await sandbox.files.read(place, position, min(PAGE, part.stop - position))
            if not data:
                raise _changed(sandbox)
            position += len(data)
            yield data

    async def _sliced(self, sandbox: Sandbox, place: str, size: int, wanted: Wanted) -> range:
        if wanted.tail is not None:
            return range(await self._lines_back(sandbox, place, size, wanted.tail), size)
        first = min(wanted.offset or 0, size)
        return range(first, size if wanted.length is None else min(size, first + wanted.length))

    async def _lines_back(self, sandbox: Sandbox, place: str, size: int, lines: int) -> int:
        """Where the last ``lines`` lines begin, be the last one ended or not."""
        position, wanted = size, lines
        while position > 0 and wanted:
            self._check(size - position)
            start = max(0, position - PAGE)
            data = await sandbox.files.read(place, start, position - start)
            if len(data) < position - start:
                raise _changed(sandbox)
            # The newline that ends the last line begins none.
            end = len(data) - 1 if position == size and data.endswith(b"\n") else len(data)
            while wanted and (end := data.rfind(b"\n", 0, end)) >= 0:
                wanted -= 1
                if not wanted:
                    return start + end + 1
            position = start
        return position

    async def _follow(self, sandbox: Sandbox, path: str, wanted: Wanted) -> Content:
        place, _ = await self._anywhere(sandbox, path, sandbox.files.size)
        watch = self._watches.watch(sandbox.files, place, partial(self._ended, sandbox.task))
        for _ in range(TRIES):
            try:
                begin, turns = await watch.present(), watch.turns
                part, incoming = await self._begun(sandbox, place, wanted)
            except (_Changed, NoFile):
                # It was rotated just then, or so it seems.
                continue
            # What was found is that file's only if it had its name all the time.
            if await watch.steady(turns):
                pieces = watch.follow(begin + (part.start if incoming is None else part.stop))
                return replace(_content(sandbox, place, incoming), part=part, pieces=pieces)
            if incoming is not None:
                incoming.abort()
        raise _changed(sandbox)

    async def _begun(self, sandbox: Sandbox, place: str, wanted: Wanted) -> tuple[range, Incoming | None]:
        """Which part of a file that is followed is there already, and a download of it if it is large."""
        size = await sandbox.files.size(place)
        part = await self._sliced(sandbox, place, size, wanted)
        if len(part) <= MIB or part.start > max(MIB, CHEAPER * len(part)):
            return part, None
        incoming = await sandbox.files.download(place)
        if incoming.length is not None and incoming.length < part.stop:
            incoming.abort()
            raise _changed(sandbox)
        return part, incoming

    async def _ended(self, task: Task) -> bool:
        return (await self._mesos.latest(task)).ended

    def _check(self, size: int) -> None:
        if size > self.limit:
            raise InvalidRequest(
                f"The requested file exceeds the allowed maximum length ({shown(self.limit)})",
                field="filename",
                code="sandbox.too_large",
            )


def _content(sandbox: Sandbox, path: str, incoming: Incoming | None = None) -> Content:
    name = posixpath.basename(path)
    given = incoming.headers.get("content-type") if incoming is not None else None
    # What a read gives has no type; this is what agents go by, too.
    kind = given or mimetypes.guess_type(name)[0] or "application/octet-stream"
    encoding = incoming.headers.get("content-encoding") if incoming is not None else None
    who, active = sandbox.files.who, sandbox.active
    return Content(sandbox.task, active, who, name, kind, encoding=encoding, incoming=incoming)


def _spanned(wanted: str | None, size: int) -> Span | None:
    try:
        return span(wanted, size)
    except Unsatisfiable:
        raise RangeNotSatisfiable(f"the range begins behind the end, which is at {size} bytes", size=size) from None


def _relative(entry: Entry, root: str) -> Entry:
    return msgspec.structs.replace(entry, path=entry.path.removeprefix(root).lstrip("/"))


class _Changed(UpstreamFault):
    """The file is not what it was a moment ago."""


def _changed(sandbox: Sandbox) -> _Changed:
    return _Changed(f"the file became shorter while {sandbox.files.who} was asked for it")


def shown(limit: int) -> str:
    """A limit in the words of the service that came before: its "1 GB" were 2 to the power of 30."""
    for unit, size in (("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        if limit >= size and limit % size == 0:
            return f"{limit // size} {unit}"
    return f"{limit} bytes"
