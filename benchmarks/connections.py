"""What idle connections cost, and callers who watch: memory, CPU, and how quick others are served."""

from __future__ import annotations

import resource
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles

from load import submission
from measuring import Hub, Process, free_port, room, show, title

IDLE = 10_000
WATCHERS = 1_000
SECONDS = 10.0
REQUESTS = 500
BARE = """
import sys
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site
class Answer(Resource):
    isLeaf = True
    def render_GET(self, request):
        return b"{}\\n"
site = Site(Answer(), timeout=3600)
site.log = lambda request: None
reactor.listenTCP(int(sys.argv[1]), site, backlog=1000, interface="127.0.0.1")
reactor.run()
"""


def main(idle: int = IDLE, watchers: int = WATCHERS, seconds: float = SECONDS) -> None:
    """Measure and print the tables."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    columns = ("kB each", "CPU µs a second each", "others: median, 99 % in ms")
    with room() as folder, ExitStack() as stack:
        hub = Hub(folder / "hub", workers=(), more={"limits": {"idle": "1 h"}})
        process = stack.enter_context(hub.running())
        peer = stack.enter_context(bare(folder))
        title(f"{idle} idle connections", *columns)
        for name, server, path in (("bare Twisted site", peer, "/"), ("hub", process, "/version")):
            measure(name, server, get(path, "keep-alive"), get(path, "keep-alive"), idle, seconds)
        number = submit(process.port, submission("a", hub.deliveries.as_uri()))
        watch, other = f"/transfers/{number}?watch=1", f"/transfers/{number}"
        title(f"{watchers} watchers of a transfer that waits", *columns)
        measure("hub", process, get(watch, "close"), get(other, "keep-alive"), watchers, seconds)


def measure(name: str, server: Process, request: bytes, other: bytes, count: int, seconds: float) -> None:
    """Hold ``count`` connections that have each sent ``request``, while a caller sends ``other`` again and again."""
    times(server.port, other)
    alone = times(server.port, other)
    memory, begun = server.memory(), server.cpu()
    time.sleep(seconds)
    resting = server.cpu() - begun
    with held(server.port, request, count):
        time.sleep(2)
        grown = (server.memory() - memory) * 1024 / count
        begun = server.cpu()
        time.sleep(seconds)
        cost = (server.cpu() - begun - resting) / seconds / count * 1e6
        beside = times(server.port, other)
    show(f"{name}", f"{grown:.1f}", f"{max(cost, 0.0):.2f}", f"{told(beside)} (alone {told(alone)})")


def told(values: Sequence[float]) -> str:
    """The median and the 99th percentile, in milliseconds."""
    return f"{median(values) * 1000:.2f}, {quantiles(values, n=100)[98] * 1000:.2f}"


def get(path: str, connection: str) -> bytes:
    """A request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n".encode()


def submit(port: int, request: bytes) -> str:
    """Submit a transfer and give its id."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        return connection.recv(65536).decode().partition('"job_id":"')[2].partition('"')[0]


@contextmanager
def held(port: int, request: bytes, count: int) -> Iterator[None]:
    """Hold connections on each of which the answer to ``request`` has begun."""
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(request)
            if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
                sys.exit("not answered with 200")
        yield


def times(port: int, request: bytes) -> list[float]:
    """The seconds that each of many requests takes on one connection, one after the other."""
    found = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(REQUESTS):
            begun = time.perf_counter()
            connection.sendall(request)
            connection.recv(65536)
            found.append(time.perf_counter() - begun)
            time.sleep(0.002)
    return found


@contextmanager
def bare(folder: Path) -> Iterator[Process]:
    """Run a site of Twisted's with nothing in it."""
    port = free_port()
    script = folder / "bare.py"
    script.write_text(BARE)
    process = Process.start([sys.executable, script, str(port)], port, folder)
    try:
        process.await_answer("/")
        yield process
    finally:
        process.stop()


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:3]))
