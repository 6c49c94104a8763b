"""A hub that runs jobs, in this process, and its callers."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import treq
from twisted.internet.defer import Deferred

from datahub.config import load
from datahub.hub import Hub, make_hub

__all__ = ["CONFIG", "House", "Reply", "free_port", "opened"]

CONFIG = """
[hub]
state = "{folder}/state"
node = "hub1"
workers = ["jobs"]
min_free = "0 B"
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
services = ["jobs"]
anonymous = ["read", "write"]
[auth.tokens.writer]
token = "writer"
scopes = ["read", "write"]
[auth.tokens.reader]
token = "reader"
scopes = ["read"]
[auth.tokens.other]
token = "other"
scopes = ["read", "write"]
[auth.tokens.boss]
token = "boss"
scopes = ["admin"]
[log]
directory = "log"
[jobs]
grace = "300 ms"
{jobs}
"""


class Reply(NamedTuple):
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class House:
    """One hub and its address."""

    def __init__(self, folder: Path, reactor: Any, jobs: str = "", config: str = CONFIG) -> None:
        self.folder, self.reactor = folder, reactor
        self.port = free_port()
        path = folder / "datahub.toml"
        path.write_text(config.format(folder=folder, port=self.port, jobs=jobs))
        hub = make_hub(load(path, {}), reactor)
        assert isinstance(hub, Hub)
        self.hub = hub

    def request(self, method: str, path: str, who: str | None = "writer", **more: Any) -> Deferred[Any]:
        headers = dict(more.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = who
        url = f"http://127.0.0.1:{self.port}{path}"
        asked: Deferred[Any] = treq.request(
            method, url, headers=headers, persistent=False, reactor=self.reactor, unbuffered=True, **more
        )
        return asked

    async def ask(self, method: str, path: str, who: str | None = "writer", **more: Any) -> Reply:
        response = await self.request(method, path, who, **more)
        headers = {name.decode().lower(): values[0].decode() for name, values in response.headers.getAllRawHeaders()}
        return Reply(response.code, headers, await response.content())

    async def post(self, who: str = "writer", **body: Any) -> Any:
        """Create a job that must be taken."""
        answer = await self.ask("POST", "/jobs", who, data=json.dumps(body).encode())
        assert answer.status == 201, answer
        return answer.json

    async def put(self, number: str, status: str, who: str = "writer") -> Reply:
        return await self.ask("PUT", f"/jobs/{number}", who, data=json.dumps({"status": status}).encode())

    async def get(self, number: str, who: str = "reader", query: str = "") -> Any:
        answer = await self.ask("GET", f"/jobs/{number}{query}", who)
        assert answer.status == 200, answer
        return answer.json

    async def run(self, command: str = "", **more: Any) -> Any:
        """Create and start a job, and give it when it is over."""
        created = await self.post(**({"command": command} if command else {}), start=True, **more)
        return await self.get(created["id"], query="?wait=40s")

    async def output(self, number: str, query: str = "", **headers: str) -> Reply:
        return await self.ask("GET", f"/jobs/{number}/output{query}", "reader", headers=headers)


@asynccontextmanager
async def opened(folder: Path, reactor: Any, jobs: str = "", config: str = CONFIG) -> AsyncIterator[House]:
    """Give a hub that runs, and stop it."""
    house = House(folder, reactor, jobs, config)
    house.hub.startService()
    try:
        yield house
    finally:
        await house.hub.stopService()
