"""Messages posted and got a second, and what each costs, against Flask and Redis under gunicorn, and a bare route.

All of them keep a message on disk before they answer: the hub by a commit in SQLite with ``synchronous=FULL``, or in
Redis, the peer in Redis, with ``appendfsync always``. 64 connections, kept alive. The peer's packages are installed
from PyPI into build/peer.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from measuring import SERVE, TICKS, TOP, Process, alternate, free_port, ratio, room, show, spread, title

ROUNDS = 4
SECONDS = 3.0
CLIENTS = 64
MESSAGE = "a message as people send them, of a hundred bytes or so: 0123456789 0123456789 0123456789"
DIGEST = sha256(MESSAGE.encode()).hexdigest()

# The service that is replaced, with what 2026 has: two routes and a Redis behind them.
FLASK = """
import hashlib, os
from flask import Flask, jsonify, request
from redis import Redis

app = Flask(__name__)
store = Redis(port=int(os.environ["REDIS_PORT"]))

@app.route("/messages", methods=["POST"])
def post():
    message = request.json["message"].encode()
    digest = hashlib.sha256(message).hexdigest()
    store.set(digest, message)
    return jsonify({"digest": digest}), 201

@app.route("/messages/<digest>")
def get(digest):
    message = store.get(digest)
    if message is None:
        return jsonify({"err_msg": "Message not found for hash: " + digest}), 404
    return jsonify({"message": message.decode()})
"""

# A route of Klein's that does nothing but answer, with the headers that the hub gives to a message.
KLEIN = """
import sys
from klein import Klein
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.server import Site

app = Klein()
body, digest = sys.argv[2].encode(), sys.argv[3]

@app.route("/messages/<digest>", methods=["GET"])
async def get(request, digest):
    request.setHeader("Content-Type", "application/json")
    request.setHeader("Content-Length", str(len(body)))
    request.setHeader("ETag", digest)
    request.setHeader("Cache-Control", "public, max-age=31536000, immutable")
    return body

class Quiet(Site):
    def log(self, request): ...
    def acceptableProtocols(self): return [b"http/1.1"]

serverFromString(reactor, "tcp:%s:interface=127.0.0.1" % sys.argv[1]).listen(Quiet(app.resource()))
reactor.run()
"""


class Servers:
    """A server that is measured, with all processes whose time it takes."""

    def __init__(self, process: Process, *behind: Process) -> None:
        self.port = process.port
        self._processes = (process, *behind)

    def cpu(self) -> float:
        """Give the processor time used so far, by children too, in seconds."""
        pids = {each.popen.pid for each in self._processes}
        return sum(_ticks(path, pids) for path in Path("/proc").glob("[0-9]*/stat")) / TICKS


def _ticks(path: Path, pids: set[int]) -> int:
    try:
        fields = path.read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12]) if {int(path.parent.name), int(fields[1])} & pids else 0


def main(rounds: int = ROUNDS) -> None:
    """Measure and print the tables."""
    with room() as folder, ExitStack() as stack:
        servers = {
            "Flask, Redis": stack.enter_context(flask(folder)),
            "hub, SQLite": stack.enter_context(hub(folder / "sqlite", None)),
            "hub, Redis": stack.enter_context(hub(folder / "redis", stack.enter_context(redis(folder / "hub-redis")))),
            "bare Klein route": stack.enter_context(klein(folder)),
        }
        costs: dict[str, list[float]] = {}
        peers = [name for name in servers if name != "bare Klein route"]
        posts = {name: _measure(servers[name], posting, costs.setdefault(f"POST {name}", [])) for name in peers}
        posted = alternate(rounds, posts)
        gets = {name: _measure(servers[name], getting, costs.setdefault(f"GET {name}", [])) for name in servers}
        got = alternate(rounds, gets)
    _table("POST /messages, 64 connections", "POST", posted, costs, "Flask, Redis")
    _table("GET /messages/…, in the hub from memory", "GET", got, costs, "Flask, Redis")
    ours, bare = costs["GET hub, SQLite"], costs["GET bare Klein route"]
    show("CPU of a GET from memory, of the bare route's", spread(ratio(ours, bare)))


def _table(text: str, method: str, rates: dict[str, list[float]], costs: dict[str, list[float]], peer: str) -> None:
    title(text, "a second", "CPU µs each", f"CPU of {peer}'s")
    for name, values in rates.items():
        each = costs[f"{method} {name}"]
        show(name, spread(values, 0), spread(each, 0), spread(ratio(each, costs[f"{method} {peer}"])))


def _measure(servers: Servers, requests, costs: list[float]):
    def measure() -> float:
        before = servers.cpu()
        answered, took = load(servers.port, requests)
        costs.append((servers.cpu() - before) / answered * 1e6)
        return answered / took

    return measure


@contextmanager
def flask(folder: Path) -> Iterator[Servers]:
    """Run the peer, and a Redis for it alone."""
    python = TOP / "build" / "peer" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "flask", "gunicorn", "redis"], check=True)
    (folder / "peer.py").write_text(FLASK)
    with redis(folder / "peer-redis") as behind:
        os.environ["REDIS_PORT"] = str(behind.port)
        options = ["--workers", "2", "--threads", "32", "--keep-alive", "60", "--pythonpath", folder]
        port = free_port()
        command = [python, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *options, "peer:app"]
        with _running(command, port, folder) as process:
            yield Servers(process, behind)


@contextmanager
def hub(folder: Path, behind: Process | None) -> Iterator[Servers]:
    """Run a hub that keeps messages in SQLite, or in the Redis ``behind`` it."""
    folder.mkdir()
    port = free_port()
    url = f"redis://127.0.0.1:{behind.port}" if behind else "database:"
    sections = {
        "hub": {"state": "state", "min_free": "1 MB", "drain": "1 s"},
        "archive": {"url": folder.as_uri()},
        "auth": {"anonymous": ["read", "write"]},
        "messages": {"url": url},
        "log": {"directory": str(folder / "log")},
    }
    lines = ["[[listen]]", f'endpoint = "tcp:{port}:interface=127.0.0.1"']
    for name, keys in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    (folder / "datahub.toml").write_text("\n".join(lines) + "\n")
    with _running([*SERVE, folder / "datahub.toml"], port, folder) as process:
        yield Servers(process, *([behind] if behind else []))


@contextmanager
def klein(folder: Path) -> Iterator[Servers]:
    """Run the bare route."""
    (folder / "bare.py").write_text(KLEIN)
    port = free_port()
    body = json.dumps({"message": MESSAGE}, separators=(",", ":")) + "\n"
    with _running([sys.executable, folder / "bare.py", str(port), body, f'"{DIGEST}"'], port, folder) as process:
        yield Servers(process)


@contextmanager
def redis(folder: Path) -> Iterator[Process]:
    """Run a Redis that has each write on disk before it answers."""
    folder.mkdir()
    port = free_port()
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", folder]
    command = [shutil.which("redis-server") or sys.exit("redis-server is needed"), "--port", str(port), *options]
    with _running(command, port, folder) as process:
        yield process


@contextmanager
def _running(command: list, port: int, folder: Path) -> Iterator[Process]:
    process = Process.start(command, port, folder)
    try:
        _await_port(port)
        yield process
    finally:
        process.stop()


def _await_port(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens at {port}")


def posting() -> Iterator[bytes]:
    """Give requests that post a message, each another one."""
    head = (
        "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    )
    for number in count(time.time_ns()):
        body = json.dumps({"message": f"{MESSAGE} {number}"})
        yield (head % (len(body), body)).encode()


def getting() -> Iterator[bytes]:
    """Post one message, then give requests that get it, again and again."""
    body = json.dumps({"message": MESSAGE})
    kind = "Content-Type: application/json\r\n"
    yield f"POST /messages HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    while True:
        yield f"GET /messages/{DIGEST} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def load(port: int, requests) -> tuple[int, float]:
    """Let another process ask over all connections for some seconds; how many answers it got, and in what time."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_load, args=(theirs, port, requests))
    child.start()
    found = ours.recv()
    child.join()
    return found


def _load(report: Connection, port: int, requests) -> None:
    ready, connections = select.epoll(), {}
    stream = requests()
    if requests is getting:
        # The bare route knows no POST, so any answer will do.
        _once(port, next(stream))
    for _ in range(CLIENTS):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[connection.fileno()] = connection
        ready.register(connection, select.EPOLLIN)
        connection.sendall(next(stream))
    begun, answered = time.perf_counter(), 0
    pieces = dict.fromkeys(connections, b"")
    while time.perf_counter() < begun + SECONDS:
        for number, _ in ready.poll(1):
            answer = pieces[number] + connections[number].recv(65536)
            if not answer.endswith(b"}\n"):
                pieces[number] = answer
                continue
            if answer[:10] not in (b"HTTP/1.1 2", b"HTTP/1.0 2"):
                sys.exit(f"not answered: {answer!r}")
            pieces[number] = b""
            answered += 1
            connections[number].sendall(next(stream))
    report.send((answered, time.perf_counter() - begun))


def _once(port: int, request: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        connection.recv(65536)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
