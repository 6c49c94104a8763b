"""The files of an agent: browse, read, download."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from datahub.errors import InvalidRequest, NotFound, UpstreamFault
from datahub.sandboxes.index import Index
from datahub.sandboxes.wire import Incoming, Origin, Wire

__all__ = ["PAGE", "AgentPlace", "Entry", "Files", "NoFile"]

PAGE: Final = 65536
"""The most bytes that an agent gives in one read."""
# A byte is at most six characters of JSON.
PAGE_JSON: Final = 6 * PAGE + 1024
LISTING: Final = 8 * 1024 * 1024


class NoFile(NotFound):
    """The agent has nothing at that path."""

    code = "sandbox.not_found"


class Entry(msgspec.Struct):
    """What a folder holds, as agents tell; ``mtime`` in seconds since 1970."""

    path: str
    mode: str
    size: int
    mtime: float
    nlink: int = 1
    uid: str | int = ""
    gid: str | int = ""


@dataclass(frozen=True, slots=True)
class AgentPlace:
    """An agent's files and its state."""

    files: Files
    index: Index


class Files:
    """The files of the agent called ``who``; endpoints end in ``suffix``, which is ".json" before Mesos 0.25.

    Each verb raises `NoFile`, `InvalidRequest` (a folder, outside of the sandbox), `UpstreamFault`.
    """

    def __init__(self, wire: Wire, origin: Origin, who: str, suffix: str) -> None:
        self.who = who
        self._wire = wire
        self._origin = origin
        self._suffix = suffix

    @property
    def key(self) -> str:
        """Unlike that of any other agent."""
        return f"{self._origin.host}:{self._origin.port}"

    async def size(self, path: str) -> int:
        """How many bytes a file has now."""
        return (await self._page(path, {}))[0]

    async def read(self, path: str, offset: int, length: int) -> bytes:
        """At most ``length`` bytes (and never more than `PAGE`) from ``offset``; fewer at the end, none behind it."""
        given, data = await self._page(path, {"offset": str(offset), "length": str(length)})
        if given != offset or len(data) > length:
            raise UpstreamFault(f"{self.who} gave another part of the file than was asked for")
        return data

    async def browse(self, folder: str) -> list[Entry]:
        """What is in a folder; nothing if it is a file."""
        path = f"/files/browse{self._suffix}"
        reply = await self._wire.get(self.who, self._origin, path, {"path": folder}, limit=LISTING)
        if reply.status != 200:
            raise self.refused(reply.status, reply.headers, reply.body)
        try:
            return msgspec.json.decode(reply.body, type=list[Entry])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._nonsense() from error

    async def download(self, path: str) -> Incoming:
        """A file from its beginning to where its end was when it was opened."""
        incoming = await self._wire.open(self.who, self._origin, f"/files/download{self._suffix}", {"path": path})
        if incoming.status == 200:
            return incoming
        if incoming.status != 400:
            incoming.abort()
            raise self.refused(incoming.status, incoming.headers)
        incoming.abort()
        # Which of the things that can be wrong it is only the body tells; a read gives the same one in small.
        await self.size(path)
        raise UpstreamFault(f"{self.who} does not give the file, and does not say why")

    async def _page(self, path: str, wanted: Mapping[str, str]) -> tuple[int, bytes]:
        query = {"path": path, **wanted}
        reply = await self._wire.get(self.who, self._origin, f"/files/read{self._suffix}", query, limit=PAGE_JSON)
        if reply.status != 200:
            raise self.refused(reply.status, reply.headers, reply.body)
        try:
            # The file's bytes stand in the JSON as they are: no encoding is right but the one that keeps them.
            document = json.loads(reply.body.decode("latin-1"), strict=False)
            return int(document["offset"]), document["data"].encode("latin-1")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._nonsense() from error

    def _nonsense(self) -> UpstreamFault:
        return UpstreamFault(f"{self.who} answered what is not the JSON of Mesos")

    def refused(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> Exception:
        """What an agent's answer means that is no success; its text may name folders, so it is not passed on."""
        if status == 404:
            return NoFile("Not found")
        if status == 400 and b"directory" in body:
            return InvalidRequest("Cannot download a directory.", field="filename", code="sandbox.directory")
        if status == 400 and b"inaccessible" in body:
            return InvalidRequest("filename is outside of the sandbox", field="filename", code="sandbox.outside")
        words = {
            401: "refuses the hub's credentials (401)",
            403: "does not let the hub read this sandbox (403)",
            503: "is not ready: it starts, or has no room for more (503)",
        }
        return UpstreamFault(f"{self.who} {words.get(status, f'answered {status}')}")
