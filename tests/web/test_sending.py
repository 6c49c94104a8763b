"""Files sent over real connections, plain and TLS: whole, in parts, slowly, and never changed without a break."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString, wrapServerTLS
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from datahub.config import TlsSection
from datahub.kit.threads import InlinePool, ReactorPool
from datahub.web.app import App, Call, Flow
from datahub.web.sending import STALL, FilePart, SourceChanged, send_pieces
from datahub.web.site import tls_options
from datahub.web.sockets import TlsSender
from tests.certificates import self_signed_pem
from tests.waiting import until
from tests.web.memory import LIMITS, Wire, make_site

SIZE = 3_000_001
VERSIONS = {
    "plain": None,
    "TLS 1.2": ssl.TLSVersion.TLSv1_2,
    "TLS 1.3": ssl.TLSVersion.TLSv1_3,
    "TLS by Twisted": ssl.TLSVersion.TLSv1_3,
}


class Shelf:
    """Gives a file, its bytes between two words, as many pieces; ``check`` is called for each part of the file."""

    app = App()

    def __init__(self, pool: Any, path: Path) -> None:
        self.pool = pool
        self.path = path
        self.parts: list[FilePart] = []
        self.check = lambda: None
        self.warm = True

    @app.operation("GET", "/file", scope="")
    async def give(self, call: Call) -> Flow:
        """Give it twice."""
        return Flow(200, "text/plain", 2 * SIZE + 9, self.send)

    def _check(self) -> None:
        self.check()

    async def send(self, request: Any) -> None:
        await send_pieces(request, self.batches(), self.pool)

    async def batches(self) -> Any:
        for word in (b"one", b"two"):
            part = FilePart(os.open(self.path, os.O_RDONLY), 0, SIZE, self._check)
            if not self.warm:
                os.posix_fadvise(part.file, 0, 0, os.POSIX_FADV_DONTNEED)
            self.parts.append(part)
            yield [word, part]
        yield [b"end"]


@pytest_twisted.async_yield_fixture
async def shelf(reactor, tmp_path):
    """A file and threads to read it."""
    pool = ReactorPool("disk", 2, reactor)
    pool.start()
    (tmp_path / "f").write_bytes(os.urandom(SIZE))
    yield Shelf(pool, tmp_path / "f")
    await pool.stop()


@pytest_twisted.async_yield_fixture(params=["plain", "TLS 1.2", "TLS 1.3", "TLS by Twisted"])
async def port(request, reactor, shelf, tmp_path, monkeypatch):
    """Where it is given, and how to connect there."""
    monkeypatch.setattr(TlsSender, "fits", lambda _: request.param != "TLS by Twisted")
    site = make_site([shelf.app], clock=reactor)
    endpoint = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
    tls = VERSIONS[request.param]
    if tls is not None:
        (tmp_path / "hub.pem").write_bytes(self_signed_pem("localhost"))
        options = tls_options(TlsSection(tmp_path / "hub.pem", tmp_path / "hub.pem"), "test")
        endpoint = wrapServerTLS(options, endpoint, reactor)
    listening = await endpoint.listen(site)
    yield listening.getHost().port, tls
    await listening.stopListening()


def read(port: int, tls: ssl.TLSVersion | None, requests: int = 1, pause: Any = None, most: int = 1 << 60) -> bytes:
    """Read answers from one connection until it is closed, or enough; blocking."""
    with _connected(port, tls) as line:
        line.settimeout(20)
        for number in range(requests):
            close = "close" if number == requests - 1 else "keep-alive"
            line.sendall(f"GET /file HTTP/1.1\r\nHost: hub\r\nConnection: {close}\r\n\r\n".encode())
        got = bytearray()
        try:
            while len(got) < most and (data := line.recv(65536)):
                got += data
                if pause is not None:
                    pause(len(got))
        except (ConnectionResetError, ssl.SSLError):
            got += b"!broken"
        return bytes(got)


def _connected(port: int, tls: ssl.TLSVersion | None) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port), 10)
    if tls is None:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = tls
    return context.wrap_socket(plain)


async def asked(shelf: Shelf, port: Any, **more: Any) -> bytes:
    got: bytes = await shelf.pool.run(read, *port, **more)
    return got


@pytest.mark.parametrize("warm", [True, False])
async def test_it_comes_whole(shelf, port, warm):
    """Two answers on one connection, in order; all files are closed. From memory, and from the disk."""
    shelf.warm = warm
    got = await asked(shelf, port, requests=2)
    data = shelf.path.read_bytes()
    bodies = [each.partition(b"\r\n\r\n")[2] for each in got.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"one" + data + b"two" + data + b"end"] * 2
    assert all(part.file == -1 for part in shelf.parts)


@pytest.mark.parametrize("how", ["it says so", "shorter"])
async def test_a_file_that_changes_breaks_the_connection(shelf, port, how):
    """Before the end of that file, so that nobody takes it for whole."""
    if how == "shorter":
        os.truncate(shelf.path, SIZE - 100_000)
    else:
        shelf.check = _changed
    got = await asked(shelf, port)
    assert len(got) < SIZE
    assert b"two" not in got[-10:]
    assert all(part.file == -1 for part in shelf.parts)


def _changed() -> None:
    raise SourceChanged("changed")


async def test_a_slow_caller_and_one_who_leaves(shelf, port, reactor):
    """Nothing is read for somebody who does not take it, and nothing stays open for one who is gone."""
    met = threading.Event()

    def pause(count: int) -> None:
        if count > 100_000 and not met.is_set():
            threading.Event().wait(0.3)
            met.set()

    got = await asked(shelf, port, pause=pause)
    assert got.endswith(b"end")
    await asked(shelf, port, most=100_000)
    for _ in range(200):
        if all(part.file == -1 for part in shelf.parts):
            break
        await shelf.pool.run(threading.Event().wait, 0.02)
    assert all(part.file == -1 for part in shelf.parts)


class Seen(bytes):
    """Bytes of which it can be seen that they are there no more."""

    alive = 0

    def __del__(self) -> None:
        Seen.alive -= 1


async def test_what_was_cut_off_is_not_kept(shelf, port):
    """No byte of it stays until everything is collected, which is rare."""
    begun: list[Any] = []

    async def batches() -> Any:
        while True:
            Seen.alive += 1
            yield [Seen(2 * SIZE)]

    async def send(request: Any) -> None:
        begun.append(request)
        await send_pieces(request, batches(), shelf.pool)

    shelf.send = send
    number, tls = port
    secure = tls is not None
    gc.collect()
    gc.disable()
    try:
        with socket.create_connection(("127.0.0.1", number)) as plain:
            line = (
                ssl._create_unverified_context().wrap_socket(plain, do_handshake_on_connect=False) if secure else plain
            )
            await deferToThread(_begin, line)
            await until(lambda: begun and Seen.alive, "it is being sent")
            if secure:
                line.close()
        await until(lambda: not Seen.alive, "nothing of it is there any more")
    finally:
        gc.enable()


def _begin(line: socket.socket) -> None:
    line.sendall(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
    line.recv(100)


class Stuck:
    """Begins an answer of which the rest does not come."""

    app = App()

    def __init__(self) -> None:
        self.rest: Deferred[None] = Deferred()

    @app.operation("GET", "/stuck", scope="")
    async def give(self, call: Call) -> Flow:
        """Give the beginning."""
        return Flow(200, "text/plain", 9, self.send)

    async def send(self, request: Any) -> None:
        await send_pieces(request, self.batches(), InlinePool())

    async def batches(self) -> Any:
        yield [b"one"]
        await self.rest
        yield [b"late"]


@pytest.mark.parametrize("unread", [False, True])
def test_a_source_that_hangs(unread):
    """Its connection ends when all it gave is taken; that a caller has not taken it yet is not the source's fault."""
    clock, stuck = Clock(), Stuck()
    wire = Wire(make_site([stuck.app], clock=clock, limits=replace(LIMITS, idle=86400.0)))
    wire.send(b"GET /stuck HTTP/1.1\r\nHost: hub\r\n\r\n")
    assert wire.transport.value().endswith(b"one")
    tcp: Any = wire.transport
    tcp.dataBuffer = b"x" if unread else b""
    for _ in range(2):
        assert not tcp.disconnecting
        clock.advance(STALL + 1)
    assert tcp.disconnecting is not unread
    wire.hang_up()
    stuck.rest.callback(None)
