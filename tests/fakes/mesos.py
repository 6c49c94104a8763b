"""Mesos at the wire: a master, followers and agents, each a Klein application that may be told to misbehave.

It speaks what Mesos speaks from 0.19 to 1.11; what it can't do is to run a task.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.web.server import Site

from tests.fakes.mesos_files import Failed, Files, type_of

__all__ = ["Agent", "Asked", "Cluster", "Master", "Peer"]

COMPRESSED_FROM = 1024
CHUNK = 256 * 1024
PLAIN = "text/plain; charset=utf-8"
PHRASES = {404: "404 Not Found.", 401: "401 Unauthorized."}

Endpoint = Callable[[Any, Mapping[str, str]], Any]
Misbehaviour = Callable[[Any], Any]


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    path: str
    query: Mapping[str, str]
    authorization: str | None
    host: str


@dataclass(eq=False)
class Peer:
    """A process that speaks HTTP: its endpoints by process and name, its credentials, and what it was asked."""

    version: str = "1.11.0"
    credentials: tuple[str, str] | None = None
    realm: str = ""
    default: str = ""
    asked: list[Asked] = field(default_factory=list)
    misbehaving: dict[str, Misbehaviour] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)
    port: Any = None
    left: int = 0
    """How many requests lost their client before the end."""

    app = Klein()

    @property
    def processes(self) -> Mapping[str, Mapping[str, Endpoint]]:
        """What is served, by process and endpoint."""
        return {}

    @property
    def open(self) -> frozenset[str]:
        """Endpoints that need no credentials."""
        return frozenset({"redirect", "health"})

    def listen(self, reactor: Any, port: int = 0, context: Any = None) -> None:
        """Listen on loopback, by TLS if there is a ``context``."""
        site: Any = Site(self.app.resource(), reactor=reactor)
        if context is None:
            self.port = reactor.listenTCP(port, site, interface="127.0.0.1")
        else:
            self.port = reactor.listenSSL(port, site, context, interface="127.0.0.1")

    @property
    def number(self) -> int:
        """The port that is listened on."""
        return int(self.port.getHost().port)

    async def close(self) -> None:
        """Listen no more."""
        port, self.port = self.port, None
        if port is not None:
            await port.stopListening()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The forms that endpoints have in this version: with .json, without, or both."""
        version = tuple(int(part) for part in self.version.split(".")[:2])
        return (".json",) if version < (0, 25) else ("", ".json") if version < (1, 8) else ("",)

    @app.route("/", branch=True)
    def serve(self, request: Any) -> Any:
        """Answer any request, as libprocess routes it."""
        request.notifyFinish().addErrback(self._note_left)
        query = dict(parse_qsl(request.uri.partition(b"?")[2].decode(), keep_blank_values=True))
        path = request.path.decode()
        authorization = request.getHeader("authorization")
        self.asked.append(Asked(path, query, authorization, request.getHeader("host") or ""))
        try:
            name, endpoint = self._route(path)
            if path in self.disabled:
                raise Failed(403, f"Endpoint '{path}' is disabled")
            if name in self.misbehaving:
                return self.misbehaving[name](request)
            if name not in self.open:
                self._authenticate(request, authorization)
            return endpoint(request, query)
        except Failed as failed:
            return answer(request, failed.status, failed.body)

    def _note_left(self, _: Any) -> None:
        self.left += 1

    def _route(self, path: str) -> tuple[str, Endpoint]:
        if path.startswith("//") or "/.." in path:
            raise Failed(404, PHRASES[404])
        first, *rest = unquote_plus(path.removesuffix("/")).removeprefix("/").split("/")
        process, names = (first, rest) if first in self.processes else (self.default, [first, *rest])
        for count in range(len(names), 0, -1):
            for name, endpoint in self.processes[process].items():
                if "/".join(names[:count]) in self._forms(name):
                    return name, endpoint
        raise Failed(404, PHRASES[404])

    def _forms(self, name: str) -> tuple[str, ...]:
        return (name,) if name in {"redirect", "health", "api/v1"} else tuple(name + each for each in self.suffixes)

    def _authenticate(self, request: Any, authorization: str | None) -> None:
        if self.credentials is None:
            return
        user, password = self.credentials
        good = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        # Mesos cuts at each colon and wants two parts, so that such a password matches nothing.
        if authorization != good or ":" in password:
            request.setHeader("WWW-Authenticate", f'Basic realm="{self.realm}"')
            raise Failed(401, PHRASES[401])


def answer(request: Any, status: int, body: str | bytes, content_type: str = PLAIN) -> bytes:
    """Set an answer's head; gives its body."""
    data = body.encode() if isinstance(body, str) else body
    request.setResponseCode(status)
    if data:
        request.setHeader("Content-Type", content_type)
    accepted = request.getHeader("accept-encoding") or ""
    if len(data) >= COMPRESSED_FROM and "gzip" in accepted:
        data = gzip.compress(data, 1)
        request.setHeader("Content-Encoding", "gzip")
    request.setHeader("Content-Length", str(len(data)))
    return data


def as_json(request: Any, query: Mapping[str, str], value: Any) -> bytes:
    """A JSON answer, or one for a script if it is asked for."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    if "jsonp" in query:
        return answer(request, 200, query["jsonp"].encode() + b"(" + text + b")", "text/javascript")
    return answer(request, 200, text, "application/json")


@dataclass(eq=False)
class Master(Peer):
    """A master; it answers for the cluster while it leads."""

    cluster: Any = None
    realm: str = "mesos-master-readonly"
    default: str = "master"

    @property
    def processes(self) -> Mapping[str, Mapping[str, Endpoint]]:
        """See `Peer`."""
        own = {"state": self.state, "slaves": self.slaves, "frameworks": self.frameworks, "redirect": self.redirect}
        tasks = {"tasks": self.tasks, "health": self.health}
        return {"master": {**own, **tasks}, "files": {"read": self.no_files}, "metrics": {}}

    def _led(self, request: Any) -> bytes | None:
        leader = self.cluster.leader
        if leader is self:
            return None
        if leader is None:
            raise Failed(503, "No leader elected")
        request.setHeader("Location", f"//{self.cluster.host}:{leader.number}{request.uri.decode()}")
        return answer(request, 307, "")

    def redirect(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Say where the leader is."""
        if request.path.decode().removesuffix("/") not in {"/redirect", "/master/redirect"}:
            raise Failed(404, PHRASES[404])
        if self.cluster.leader is None:
            raise Failed(503, "No leader elected")
        request.setHeader("Location", f"//{self.cluster.host}:{self.cluster.leader.number}")
        return answer(request, 307, "")

    def health(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Say that the process lives."""
        return answer(request, 200, "")

    def no_files(self, request: Any, query: Mapping[str, str]) -> bytes:
        """A master has none but its log."""
        raise Failed(404)

    def state(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Tell everything."""
        return self._led(request) if self.cluster.leader is not self else as_json(request, query, self.cluster.encoded)  # type: ignore[return-value]

    def slaves(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Tell of the agents, or of one."""
        redirected = self._led(request)
        if redirected is not None:
            return redirected
        state, wanted = self.cluster.state, query.get("slave_id")
        filters = tuple(int(part) for part in self.version.split(".")[:2]) >= (1, 2)
        found = {
            kind: [each for each in state.get(kind, []) if wanted is None or not filters or each["id"] == wanted]
            for kind in ("slaves", "recovered_slaves")
        }
        return as_json(request, query, found)

    def frameworks(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Tell of the frameworks, or of one."""
        redirected = self._led(request)
        if redirected is not None:
            return redirected
        wanted = query.get("framework_id")
        kinds = ("frameworks", "completed_frameworks")
        found = {
            kind: [each for each in self.cluster.state.get(kind, []) if wanted in (None, each["id"])] for kind in kinds
        }
        return as_json(request, query, {**found, "unregistered_frameworks": []})

    def tasks(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Tell of tasks in all lists, newest first, a page of them."""
        redirected = self._led(request)
        if redirected is not None:
            return redirected
        filters = tuple(int(part) for part in self.version.split(".")[:2]) >= (1, 2)
        found = [each for each in self.cluster.tasks() if not filters or _wanted(each, query)]
        found.sort(key=_first_time, reverse=query.get("order") != "asc")
        offset, limit = _whole(query.get("offset"), 0), _whole(query.get("limit"), 100)
        return as_json(request, query, {"tasks": found[offset : offset + limit]})


@dataclass(eq=False)
class Agent(Peer):
    """An agent: what it knows of executors, and their sandboxes."""

    state: dict[str, Any] = field(default_factory=dict)
    files: Files = field(default_factory=Files)
    recovering: bool = False
    realm: str = "mesos-agent-readonly"
    default: str = "slave(1)"

    @property
    def processes(self) -> Mapping[str, Mapping[str, Endpoint]]:
        """See `Peer`."""
        files = {"browse": self.browse, "read": self.read, "download": self.download, "debug": self.debug}
        own = {"state": self.tell_state, "health": self.health, "api/v1": self.operate}
        return {"slave(1)": own, "files": files, "metrics": {}}

    def tell_state(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Tell everything."""
        if self.recovering:
            raise Failed(503, "Agent has not finished recovery")
        return as_json(request, query, self.state)

    def health(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Say that the process lives."""
        return answer(request, 200, "")

    def browse(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Tell what is in a folder."""
        return as_json(request, query, self.files.browse(query))

    def read(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Give a page of a file."""
        return as_json(request, query, self.files.read(query))

    def debug(self, request: Any, query: Mapping[str, str]) -> bytes:
        """Tell what is attached."""
        return as_json(request, query, {virtual: str(real) for virtual, real in self.files.attached.items()})

    def download(self, request: Any, query: Mapping[str, str]) -> Deferred[None]:
        """Send a file whole, as large as it is when it is opened."""
        path = self.files.download(query)
        request.setHeader("Content-Type", type_of(path))
        request.setHeader("Content-Disposition", f"attachment; filename={Path(query['path']).name}")
        return Sending(request, path).done

    def operate(self, request: Any, query: Mapping[str, str]) -> bytes:
        """The operator API's two calls for files."""
        call = json.loads(request.content.read())
        if call["type"] == "READ_FILE":
            wanted = call["read_file"]
            real = self.files.resolve(wanted["path"])
            data = real.read_bytes()[wanted.get("offset", 0) :][: wanted.get("length", 65536)]
            read = {"data": base64.b64encode(data).decode(), "size": real.stat().st_size}
            return as_json(request, query, {"type": "READ_FILE", "read_file": read})
        entries = self.files.browse({"path": call["list_files"]["path"]})
        infos = [{**each, "mtime": {"nanoseconds": each["mtime"] * 10**9}} for each in entries]
        return as_json(request, query, {"type": "LIST_FILES", "list_files": {"file_infos": infos}})

    def sandbox(self, directory: str, root: Path) -> Path:
        """Attach ``directory`` of an executor, as a folder below ``root``."""
        real = root / directory.lstrip("/")
        real.mkdir(parents=True, exist_ok=True)
        self.files.attach(directory, real)
        found = re.fullmatch(r"(.*)(/frameworks/[^/]+/executors/[^/]+/runs)/[^/]+", directory)
        if found and tuple(int(part) for part in self.version.split(".")[:2]) >= (1, 5):
            self.files.attach(f"{found[2]}/latest", real)
            self.files.attach(f"{found[1]}{found[2]}/latest", real)
        return real


class Sending:
    """A file on its way, read only as fast as it is taken; ``sent`` counts the bytes of all of them."""

    sent = 0

    def __init__(self, request: Any, path: Path) -> None:
        self.done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._request = request
        self._file = path.open("rb")
        self._left = os.fstat(self._file.fileno()).st_size
        self._running = True
        request.setHeader("Content-Length", str(self._left))
        request.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Send the next part."""
        data = self._file.read(min(CHUNK, self._left)) if self._running else b""
        self._left -= len(data)
        Sending.sent += len(data)
        if data:
            self._request.write(data)
        if self._running and (not self._left or not data):
            self.stopProducing()
            self._request.unregisterProducer()
            self.done.callback(None)

    def stopProducing(self) -> None:
        """Send no more."""
        if self._running:
            self._running = False
            self._file.close()


@dataclass(eq=False)
class Cluster:
    """A master state, and the peers that know it; ``host`` is how they name each other."""

    state: dict[str, Any]
    masters: list[Master] = field(default_factory=list)
    agents: dict[str, Agent] = field(default_factory=dict)
    leader: Master | None = None
    host: str = "127.0.0.1"
    _encoded: bytes | None = None

    @property
    def encoded(self) -> bytes:
        """The state as JSON; call `changed` after changing it."""
        if self._encoded is None:
            self._encoded = json.dumps(self.state).encode()
        return self._encoded

    def changed(self) -> None:
        """The state was changed."""
        self._encoded = None

    def add_master(self, **settings: Any) -> Master:
        """One more master; the first one leads."""
        master = Master(cluster=self, version=self.state.get("version", "1.11.0"), **settings)
        self.masters.append(master)
        self.leader = self.leader or master
        return master

    def add_agent(self, agent_id: str, state: dict[str, Any], **settings: Any) -> Agent:
        """The agent behind a slave of the state."""
        settings.setdefault("version", state.get("version", "1.11.0"))
        self.agents[agent_id] = Agent(state=state, **settings)
        return self.agents[agent_id]

    def listen(self, reactor: Any, context: Any = None) -> None:
        """Let all peers listen, and the state name the agents' real ports."""
        for peer in (*self.masters, *self.agents.values()):
            peer.listen(reactor, context=context)
        for slave in self.state.get("slaves", []):
            if slave["id"] in self.agents:
                self._place(slave, self.agents[slave["id"]].number)
        self.changed()

    def _place(self, slave: dict[str, Any], port: int) -> None:
        slave["hostname"] = self.host
        if "port" in slave:
            slave["port"] = port
        if "pid" in slave:
            slave["pid"] = f"slave(1)@{self.host}:{port}"

    async def close(self) -> None:
        """Let no peer listen any more."""
        for peer in (*self.masters, *self.agents.values()):
            await peer.close()

    def tasks(self) -> list[dict[str, Any]]:
        """All tasks of all lists."""
        frameworks = [*self.state.get("frameworks", []), *self.state.get("completed_frameworks", [])]
        kinds = ("tasks", "unreachable_tasks", "completed_tasks")
        return [task for framework in frameworks for kind in kinds for task in framework.get(kind, [])]

    def count(self, path: str) -> int:
        """How often the masters were asked for ``path``, in whatever form."""
        asked = [urlsplit(each.path).path for master in self.masters for each in master.asked]
        return sum(each.removesuffix(".json").removeprefix("/master") == path for each in asked)


def _wanted(task: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    asked = {"id": query.get("task_id"), "framework_id": query.get("framework_id")}
    return all(value in (None, task[name]) for name, value in asked.items())


def _first_time(task: Mapping[str, Any]) -> float:
    statuses = task.get("statuses", [])
    return float(statuses[0]["timestamp"]) if statuses else 0.0


def _whole(value: str | None, default: int) -> int:
    return int(value) if value is not None and value.isdigit() else default
