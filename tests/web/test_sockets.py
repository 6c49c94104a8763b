"""What goes out over TLS past Twisted's own writing: in order, no faster than it is taken, and to an end of its own."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections import deque
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from OpenSSL.SSL import Error, WantReadError
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString, wrapServerTLS
from twisted.internet.threads import deferToThread

from datahub.config import TlsSection
from datahub.kit.aio import sleep
from datahub.kit.threads import ReactorPool
from datahub.web.app import App, Call, Flow
from datahub.web.sending import FilePart, send_pieces
from datahub.web.site import tls_options
from datahub.web.sockets import SEAL, TlsSender
from tests.certificates import self_signed_pem
from tests.waiting import until
from tests.web.memory import make_site

GET = b"GET /data HTTP/1.1\r\nHost: hub\r\n\r\n"
ENDLESS = 1 << 40


class Source:
    """Gives the pieces that a test puts there; without any, bytes without end."""

    app = App()

    def __init__(self, pool: Any, clock: Any) -> None:
        self.pool = pool
        self.clock = clock
        self.pieces: list[bytes | FilePart] = []
        self.length = ENDLESS
        self.ended: list[str] = []
        self.request: Any = None
        self._tls: Any = None

    @app.operation("GET", "/data", scope="")
    async def give(self, call: Call) -> Flow:
        """Give it."""
        return Flow(200, "text/plain", self.length, self.send)

    async def send(self, request: Any) -> None:
        self.request, self._tls = request, request.channel.transport
        try:
            await send_pieces(request, self.batches(), self.pool)
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        self.ended.append("whole")

    async def batches(self) -> Any:
        if self.pieces:
            yield list(self.pieces)
            return
        while True:
            yield [os.urandom(SEAL)]

    @property
    def tls(self) -> Any:
        """Twisted's side of the connection."""
        return self._tls


class Line:
    """A caller over TLS, whose reads wait in a thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: ssl.SSLSocket

    async def connect(self) -> None:
        """Connect, and ask."""
        await deferToThread(self._connect)

    def _connect(self) -> None:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        plain.settimeout(20)
        plain.connect(("127.0.0.1", self._port))
        self._socket = ssl._create_unverified_context().wrap_socket(plain)
        self._socket.sendall(GET)

    async def read(self, count: int) -> bytes:
        """Read exactly so much of what comes, or up to the end of the connection."""
        got: bytes = await deferToThread(self._read, count)
        return got

    def _read(self, count: int) -> bytes:
        got = bytearray()
        while len(got) < count and (data := self._socket.recv(min(65536, count - len(got)))):
            got += data
        return bytes(got)

    async def head(self) -> bytes:
        """Read the headers."""
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            got += await self.read(1)
        return got

    async def say(self, data: bytes) -> None:
        """Send something."""
        await deferToThread(self._socket.sendall, data)

    async def leave(self) -> None:
        """Send TLS's own word of the end, and take what is still on its way without a look."""
        await deferToThread(self._leave)

    def _leave(self) -> None:
        self._socket.setblocking(False)
        with suppress(ssl.SSLError):
            self._socket.unwrap()
        with socket.socket(fileno=self._socket.detach()) as plain:
            plain.settimeout(20)
            while plain.recv(65536):
                pass

    def close(self) -> None:
        """Be gone."""
        self._socket.close()


@pytest_twisted.async_yield_fixture
async def source(reactor):
    """What is sent, and threads to read it."""
    pool = ReactorPool("disk", 2, reactor)
    pool.start()
    yield Source(pool, reactor)
    await pool.stop()


@pytest_twisted.async_yield_fixture
async def line(reactor, source, tmp_path):
    """A caller of it, not yet connected."""
    (tmp_path / "hub.pem").write_bytes(self_signed_pem("localhost"))
    options = tls_options(TlsSection(tmp_path / "hub.pem", tmp_path / "hub.pem"), "test")
    endpoint = wrapServerTLS(options, serverFromString(reactor, "tcp:0:interface=127.0.0.1"), reactor)
    listening: Any = await endpoint.listen(make_site([source.app], clock=reactor))
    line = Line(listening.getHost().port)
    yield line
    line.close()
    await listening.stopListening()


def lasting(source: Source, pieces: list[bytes | FilePart], data: bytes) -> None:
    source.pieces, source.length = pieces, len(data)


async def test_twisted_is_as_it_is_known(source, line):
    """Else all of it would go Twisted's own way, which is slower, and nobody would notice."""
    lasting(source, [b"a"], b"a")
    await line.connect()
    await until(lambda: source.request is not None, "the request is there")
    assert TlsSender.fits(source.tls)
    assert not TlsSender.fits(source.tls.transport)


@pytest.mark.parametrize("odd", [1, 16383, 16384, 16385, SEAL - 1, SEAL, SEAL + 1, 3 * SEAL + 5])
async def test_sizes_of_all_kinds(source, line, tmp_path, odd):
    """Bytes and files, shorter and longer than what is encrypted at once; parts of files; pieces without any byte."""
    data = os.urandom(odd + 20)
    (tmp_path / "f").write_bytes(data)
    files = [os.open(tmp_path / "f", os.O_RDONLY) for _ in range(2)]
    checked: list[int] = []
    parts = [FilePart(file, 10, 10 + odd, lambda: checked.append(1)) for file in files]
    sent = data + data[10:-10] + b"x" + data[:odd] + data[10:-10] + b"end"
    lasting(source, [data, b"", parts[0], b"x", data[:odd], parts[1], b"", b"end"], sent)
    await line.connect()
    head = await line.head()
    assert f"Content-Length: {len(sent)}".encode() in head
    assert await line.read(len(sent)) == sent
    assert [part.file for part in parts] == [-1, -1]
    assert len(checked) == 2
    assert source.ended == ["whole"]


async def test_one_who_does_not_read(source, line):
    """The hub takes no more than fits into the kernel and one piece; what was sent is what is read when he goes on."""
    given: deque[bytes] = deque()

    async def batches() -> Any:
        while True:
            given.append(os.urandom(SEAL))
            yield [given[-1]]

    source.batches = batches
    await line.connect()
    seen = [-1] * 20

    def settled() -> bool:
        seen.append(len(given))
        return bool(given) and len(set(seen[-20:])) == 1

    await until(settled, "nothing more is taken", 30)
    assert source.request.sentLength < 64 * 1024 * 1024
    below = source.tls.transport
    assert len(below.dataBuffer) + below._tempDataLen <= 2 * SEAL
    assert len(given) * SEAL - source.request.sentLength <= 2 * SEAL
    await line.head()
    expected = b"".join(given)
    assert await line.read(len(expected)) == expected
    assert source.ended == []


@pytest.mark.parametrize("properly", [True, False])
async def test_one_who_leaves_in_the_middle(source, line, tmp_path, properly):
    """The download ends, and its file is let go of, whether TLS is told or not."""
    (tmp_path / "f").write_bytes(bytes(64 * 1024 * 1024))
    part = FilePart(os.open(tmp_path / "f", os.O_RDONLY), 0, 64 * 1024 * 1024, lambda: None)
    source.pieces = [b"a", part]
    await line.connect()
    await line.head()
    await line.read(100_000)
    if properly:
        await line.leave()
    else:
        line.close()
    await until(lambda: source.ended, "it has ended")
    assert source.ended != ["whole"]
    assert part.file == -1
    assert part.first < part.end


async def test_the_hub_closes_in_the_middle(source, line):
    """What was encrypted is sent, then TLS's own end; the caller is not told that this was all."""
    await line.connect()
    await line.head()
    source.request.channel.loseConnection()
    got = await line.read(ENDLESS)
    assert 0 < len(got) < ENDLESS
    await until(lambda: source.ended, "it has ended")
    assert source.ended != ["whole"]


class Moody:
    """Twisted's TLS connection, which encrypts two records more and then refuses to, while ``mood`` is an error."""

    def __init__(self, connection: Any, mood: Exception) -> None:
        self._connection = connection
        self.mood: Exception | None = mood
        self.taken = 0
        self.refused = 0

    def send(self, data: bytes) -> int:
        """Take some of ``data``; raises its mood."""
        if self.mood is not None and self.taken == 2:
            self.refused += 1
            raise self.mood
        count: int = self._connection.send(data)
        self.taken += 1
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def in_the_middle(source: Source, line: Line, mood: Exception) -> tuple[Moody, bytes]:
    """Begin a download and let the connection have a mood; what was read before."""
    await line.connect()
    await line.head()
    tls = source.tls
    tls._tlsConnection = moody = Moody(tls._tlsConnection, mood)
    begun = b""
    while not moody.refused:
        begun += await line.read(SEAL)
    return moody, begun


async def test_tls_that_waits_for_the_caller(source, line, reactor):
    """As in a renegotiation: nothing is lost, put before something else or piled up; it goes on when he was heard."""
    data = os.urandom(1024 * 1024) * 32
    lasting(source, [data], data)
    moody, begun = await in_the_middle(source, line, WantReadError())
    await sleep(0.1, reactor)
    # Once by us, and once by Twisted, which waits from then on.
    assert moody.refused == 2
    with pytest.raises(WantReadError):
        moody.bio_read(1)
    moody.mood = None
    waiting = line.read(len(data) - len(begun))
    await line.say(GET[:5])
    assert begun + await waiting == data
    assert source.ended == ["whole"]


async def test_tls_that_fails(source, line):
    """The connection ends, and so does the download."""
    data = bytes(64 * 1024 * 1024)
    lasting(source, [data], data)
    _, begun = await in_the_middle(source, line, Error([("", "", "broken")]))
    rest = await line.read(len(data))
    assert len(begun) + len(rest) < len(data)
    await until(lambda: source.ended, "it has ended")
    assert source.ended != ["whole"]


@pytest.mark.parametrize("records", [0, 2])
async def test_tls_that_fails_at_the_very_end(source, line, records):
    """The connection ends though nothing is left to be sent."""
    go: Deferred[None] = Deferred()

    async def batches() -> Any:
        yield [b"begun"]
        await go
        yield [bytes(SEAL)]

    source.batches, source.length = batches, 5 + SEAL
    await line.connect()
    await line.head()
    assert await line.read(5) == b"begun"
    tls = source.tls
    tls._tlsConnection = moody = Moody(tls._tlsConnection, Error([("", "", "broken")]))
    moody.taken = 2 - records
    go.callback(None)
    assert len(await line.read(SEAL)) == records * 16384
    await until(lambda: not tls.transport.connected, "it is closed")


async def test_a_socket_that_takes_half(source, line, monkeypatch):
    """What it did not take is sent before anything else."""
    sent_of = TlsSender._sent_of
    monkeypatch.setattr(TlsSender, "_sent_of", lambda self, records: sent_of(self, records[: len(records) // 2]))
    data = os.urandom(10 * SEAL)
    lasting(source, [data], data)
    await line.connect()
    await line.head()
    assert await line.read(len(data)) == data


async def test_a_disk_that_is_slow(source, line, tmp_path, monkeypatch, reactor):
    """While a thread reads, nothing is asked for again, nor is the reactor kept busy, though there is more to send."""
    data = os.urandom(3 * SEAL)
    (tmp_path / "f").write_bytes(data)
    go: Deferred[None] = Deferred()
    asked: list[int] = []
    turns: list[object] = []
    preadv, write_some = os.preadv, TlsSender._write_some

    def cold(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            asked.append(offset)
            raise BlockingIOError(errno.EAGAIN, "not in memory")
        return preadv(file, buffers, offset)

    def counted(sender: TlsSender) -> None:
        turns.append(sender)
        write_some(sender)

    async def run(work: Any, *arguments: Any) -> Any:
        if not go.called:
            await go
        return work(*arguments)

    async def batches() -> Any:
        yield [b"one", FilePart(os.open(tmp_path / "f", os.O_RDONLY), 0, len(data), lambda: None)]
        yield [b"two"]

    monkeypatch.setattr(os, "preadv", cold)
    monkeypatch.setattr(TlsSender, "_write_some", counted)
    monkeypatch.setattr(source.pool, "run", run)
    source.batches, source.length = batches, len(data) + 6
    await line.connect()
    await line.head()
    assert await line.read(3) == b"one"
    await sleep(0.1, reactor)
    assert (len(asked), len(turns)) == (1, 1)
    go.callback(None)
    assert await line.read(len(data) + 3) == data + b"two"
