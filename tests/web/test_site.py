"""Listeners on real sockets of the loopback: what only the kernel and TLS can show."""

from __future__ import annotations

import datetime as dt
import errno
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from datahub.config import LimitsSection, ListenSection, TlsSection
from datahub.errors import StartError
from datahub.kit.aio import start
from datahub.web.app import App, Call
from datahub.web.site import Listeners, Root
from tests.waiting import until
from tests.web.memory import LIMITS, Entries, gate

LOOPBACK = "tcp:0:interface=127.0.0.1"
REQUEST = b"GET /quick HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Clockwork:
    """Operations that take their time."""

    app = App()

    def __init__(self) -> None:
        self.waiting: Deferred[None] = Deferred()
        self.asked = False

    @app.operation("GET", "/quick", scope="")
    async def quick(self, call: Call) -> dict[str, Any]:
        return {"address": call.address, "scopes": sorted(call.caller.scopes)}

    @app.operation("GET", "/slow", scope="")
    async def slow(self, call: Call) -> dict[str, Any]:
        self.asked = True
        await self.waiting
        return {"slow": True}

    @app.operation("GET", "/half", scope="")
    async def half(self, call: Call) -> None:
        call.request.responseHeaders.setRawHeaders("Content-Length", ["100"])
        call.request.write(b"half")
        raise RuntimeError("broken")

    @app.operation("POST", "/take", scope="")
    async def take(self, call: Call) -> dict[str, Any]:
        return {"size": len(call.body)}


@pytest.fixture
def clockwork() -> Clockwork:
    """The object whose operations are served."""
    return Clockwork()


@pytest.fixture
def log() -> Entries:
    """The access log."""
    return Entries()


@pytest_twisted.async_yield_fixture
async def listening(reactor, clockwork, log):
    """Make listeners for sections, started; they are stopped after the test."""
    made: list[Listeners] = []

    def listen(*sections: ListenSection, limits: LimitsSection = LIMITS) -> Listeners:
        listeners = make(reactor, clockwork, log, *sections, limits=limits)
        listeners.start()
        made.append(listeners)
        return listeners

    yield listen
    for listeners in made:
        await listeners.stop(0)


def make(
    reactor: Any, clockwork: Clockwork, log: Entries, *sections: ListenSection, limits: LimitsSection = LIMITS
) -> Listeners:
    """Listeners that are not started yet."""
    root = Root([clockwork.app])
    return Listeners(sections, lambda _: root, gate(), limits, "hub1", log, reactor, anonymous=("read",))


def section(endpoint: str = LOOPBACK, **more: Any) -> ListenSection:
    """A listener of the configuration."""
    return ListenSection(endpoint=endpoint, services=("transfers",), **{"anonymous": None, "tls": None, **more})


def port_of(listeners: Listeners, index: int = 0) -> int:
    """The port that the kernel chose."""
    return cast(IPv4Address, listeners.addresses[index]).port


class Peer:
    """A client with a plain socket, in a thread."""

    def __init__(self, port: int, wrap: Callable[[socket.socket], socket.socket] = lambda plain: plain) -> None:
        self._port = port
        self._wrap = wrap
        self.socket: socket.socket | None = None

    async def exchange(self, *pieces: bytes) -> bytes:
        """Send ``pieces`` and read until the other side closes."""
        return await deferToThread(self._exchange, *pieces)

    def _exchange(self, *pieces: bytes) -> bytes:
        # Both are closed: a handshake that fails leaves the plain socket open.
        with (
            socket.create_connection(("127.0.0.1", self._port), timeout=45) as plain,
            self._wrap(plain) as connected,
        ):
            self.socket = connected
            for piece in pieces:
                connected.sendall(piece)
            received = b""
            while data := connected.recv(65536):
                received += data
            return received


async def test_it_answers_on_a_socket(listening):
    """A caller on the loopback is answered, with the scopes that anonymous callers have by default."""
    reply = await Peer(port_of(listening(section()))).exchange(REQUEST)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(b'{"address":"127.0.0.1","scopes":["read"]}\n')


async def test_anonymous_scopes_of_a_listener(listening):
    """A listener may give anonymous callers other scopes; none is a choice as well."""
    listeners = listening(section(anonymous=("write",)), section(anonymous=()))
    assert b'"scopes":["write"]' in await Peer(port_of(listeners)).exchange(REQUEST)
    assert b'"scopes":[]' in await Peer(port_of(listeners, 1)).exchange(REQUEST)


async def test_a_local_socket(listening, tmp_path):
    """A socket file serves as well; its callers have no address."""
    path = tmp_path / "hub.sock"
    listening(section(f"unix:{path}"))

    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX) as connected:
            connected.connect(str(path))
            connected.sendall(REQUEST)
            received = b""
            while data := connected.recv(65536):
                received += data
            return received

    assert b'"address":"unix"' in await deferToThread(ask)


def refused(listeners: Listeners) -> str:
    """Why the listeners did not start."""
    with pytest.raises(StartError) as raised:
        listeners.start()
    assert listeners.addresses == []
    return str(raised.value)


def test_a_busy_port(reactor, clockwork, log):
    """The error names the listener and says what to do, and no other listener stays open."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        endpoint = f"tcp:{busy.getsockname()[1]}:interface=127.0.0.1"
        text = refused(make(reactor, clockwork, log, section(), section(endpoint)))
    advice = "choose another endpoint in [[listen]] or stop who holds it (ss -ltnp)"
    assert text == f"listen '{endpoint}': the port is in use; {advice}"


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("tcp:0:interface=192.0.2.1", "this machine has no such address"),
        ("tcp:http", "it can't be opened"),
        ("nonsense:1", "it can't be opened"),
        ("systemd:domain=INET:index=0", "it can't be opened"),
        ("unix:/nonexistent/hub.sock", "the folder of the socket file does not exist"),
    ],
)
def test_endpoints_that_can_t_be(reactor, clockwork, log, endpoint, text):
    """Whatever is wrong with an endpoint, the daemon learns it at once, in a line."""
    assert refused(make(reactor, clockwork, log, section(endpoint))).startswith(f"listen '{endpoint}': {text}")


def test_a_port_for_root_only(clockwork, log):
    """Missing permission is told, with what would give it."""

    class Strict:
        """A reactor on a machine where nothing is allowed."""

        def listenTCP(self, port: int, *args: Any, **kwargs: Any) -> None:  # noqa: N802 - Twisted's name
            from twisted.internet.error import CannotListenError

            raise CannotListenError("", port, OSError(errno.EACCES, "Permission denied"))

    assert "CAP_NET_BIND_SERVICE" in refused(make(Strict(), clockwork, log, section("tcp:80")))


def certificate(folder: Path, name: str = "hub") -> TlsSection:
    """A self-signed certificate of localhost, in files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files = TlsSection(certificate=folder / f"{name}.pem", key=folder / f"{name}.key")
    files.certificate.write_bytes(signed.public_bytes(pem))
    files.key.write_bytes(key.private_bytes(pem, *plain))
    return files


def trusting(files: TlsSection) -> Callable[[socket.socket], socket.socket]:
    """Wrap a socket in TLS that trusts this certificate alone."""
    context = ssl.create_default_context(cafile=str(files.certificate))
    return lambda plain: context.wrap_socket(plain, server_hostname="localhost")


async def test_tls(listening, tmp_path):
    """A listener with certificate and key speaks TLS, and only HTTP/1.1 in it."""
    files = certificate(tmp_path)
    port = port_of(listening(section(tls=files)))
    assert b'"address":"127.0.0.1"' in await Peer(port, trusting(files)).exchange(REQUEST)
    assert b"HTTP" not in await Peer(port).exchange(REQUEST)


async def test_the_connection_limit_under_tls(listening, tmp_path):
    """A connection too many is closed without a word, in TLS too; the hub goes on."""
    files = certificate(tmp_path)
    limits = LimitsSection(connections=1, header=16384, body=2000, idle=60.0)
    port = port_of(listening(section(tls=files), limits=limits))
    first = await deferToThread(socket.create_connection, ("127.0.0.1", port))
    with first, pytest.raises(OSError):
        await Peer(port, trusting(files)).exchange(REQUEST)
    for _ in range(100):
        try:
            reply = await Peer(port, trusting(files)).exchange(REQUEST)
        except OSError:
            continue
        break
    assert b"200 OK" in reply


def test_certificates_that_can_t_be(reactor, clockwork, log, tmp_path):
    """Each mistake with certificate and key names the listener, the file, and what it should be."""
    good, other = certificate(tmp_path), certificate(tmp_path, "other")
    missing, junk = tmp_path / "missing.pem", tmp_path / "junk.pem"
    junk.write_text("junk")
    locked = tmp_path / "locked.key"
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(b"secret")
    pem = serialization.Encoding.PEM
    locked.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption))
    for certificate_file, key_file, text in (
        (missing, good.key, f"{missing} can't be read: No such file or directory"),
        (good.certificate, missing, f"{missing} can't be read: No such file or directory"),
        (junk, good.key, f"{junk} must hold certificates in PEM form"),
        (good.certificate, junk, f"{junk} must hold a private key without password in PEM form"),
        (good.certificate, locked, f"{locked} must hold a private key without password in PEM form"),
        (good.certificate, other.key, f"the key {other.key} does not belong to {good.certificate}"),
    ):
        tls = TlsSection(certificate=certificate_file, key=key_file)
        assert refused(make(reactor, clockwork, log, section(tls=tls))).startswith(f"listen '{LOOPBACK}': {text}")


async def test_an_error_after_the_first_byte_breaks_the_connection(listening):
    """The caller sees a reset or less than was promised, never a whole answer."""
    port = port_of(listening(section()))
    try:
        reply = await Peer(port).exchange(b"GET /half HTTP/1.1\r\nHost: localhost\r\n\r\n")
    except ConnectionResetError:
        return
    assert b"Content-Length: 100" in reply or reply == b""
    assert b"problem" not in reply
    assert len(reply.partition(b"\r\n\r\n")[2]) < 100


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 3000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n2dc6c0\r\n"],
    ids=["declared", "chunked"],
)
async def test_413_reaches_who_sends_without_listening(listening, log, head):
    """One who sends all of a body of 3 MB before he reads finds the answer, whole, and the connection closed."""
    port = port_of(listening(section()))
    ending = b"\r\n0\r\n\r\n" if b"chunked" in head else b""
    reply = await Peer(port).exchange(b"POST /take HTTP/1.1\r\nHost: localhost\r\n" + head, b"x" * 3_000_000 + ending)
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert reply.count(b"HTTP/1.1") == 1
    assert reply.rstrip().endswith(b"}")
    assert [entry.status for entry in log.entries] == [413]


async def test_a_stop_serves_what_is_under_way(reactor, listening, clockwork):
    """Nobody gets in any more, but who was in is answered; then the stop is over."""
    listeners = listening(section())
    port = port_of(listeners)
    asking = start(Peer(port).exchange(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    await until(lambda: clockwork.asked, "a request under way")
    stopping = start(listeners.stop(45))
    await until(lambda: listeners.draining and not listeners.addresses, "a stop under way")
    # Who came just before the port was closed is cut off, unheard.
    with pytest.raises(ConnectionError):
        await Peer(port).exchange(REQUEST)
    assert not stopping.called
    clockwork.waiting.callback(None)
    reply = await asking
    assert b"Connection: close" in reply
    assert reply.endswith(b'{"slow":true}\n')
    await stopping


async def test_a_stop_has_an_end(reactor, listening, clockwork, log):
    """Who takes longer than the drain, and who only keeps a connection open, is cut off."""
    listeners = listening(section())
    port = port_of(listeners)
    asking = start(Peer(port).exchange(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    idle = start(Peer(port).exchange(b""))
    await until(
        lambda: clockwork.asked and len(listeners._traffic.connections) == 2, "a request and an idle connection"
    )
    await listeners.stop(0.1)
    assert (await asking, await idle) == (b"", b"")
    assert [entry.status for entry in log.entries] == [499]
