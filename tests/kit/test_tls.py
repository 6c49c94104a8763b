"""TLS as a client, against a real server on loopback that wants to know who calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from treq.client import HTTPClient
from twisted.internet.ssl import CertificateOptions, KeyPair, PrivateCertificate, trustRootFromCertificates
from twisted.web.client import Agent, ResponseFailed, ResponseNeverReceived
from twisted.web.resource import Resource
from twisted.web.server import Site

from datahub.kit.tls import ClientPolicy
from tests.certificates import self_signed_pem


class Door(Resource):
    """Says who came in."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        return str(request.channel.transport.getPeerCertificate().to_cryptography().subject.rfc4514_string()).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with the server's and the hub's certificates and keys."""
    for name, host in (("server", "localhost"), ("hub", "hub.example.org")):
        key, mark, certificate = self_signed_pem(host).partition(b"-----BEGIN CERTIFICATE-----")
        (tmp_path / f"{name}.key").write_bytes(key)
        (tmp_path / f"{name}.pem").write_bytes(mark + certificate)
    return tmp_path


def loaded(folder: Path, name: str) -> Any:
    return PrivateCertificate.loadPEM((folder / f"{name}.key").read_bytes() + (folder / f"{name}.pem").read_bytes())


@contextmanager
def served(folder: Path, reactor: Any) -> Iterator[Any]:
    """Serve HTTPS to whom the hub's certificate belongs."""
    server = loaded(folder, "server")
    assert isinstance(server.privateKey, KeyPair)
    options = CertificateOptions(
        privateKey=server.privateKey.original,
        certificate=server.original,
        trustRoot=trustRootFromCertificates([loaded(folder, "hub")]),
    )
    site: Any = Site(Door(), reactor=reactor)
    port = reactor.listenSSL(0, site, options, interface="127.0.0.1")
    try:
        yield port
    finally:
        port.stopListening()


async def call(policy: ClientPolicy, port: Any, reactor: Any, host: str = "localhost") -> str:
    client = HTTPClient(Agent(reactor, policy, connectTimeout=5))
    response = await client.get(f"https://{host}:{port.getHost().port}/")
    text: str = await response.text()
    return text


async def test_both_sides_know_each_other(folder: Path, reactor: Any) -> None:
    """The server is signed by ``ca``, the hub shows its certificate."""
    policy = ClientPolicy(folder / "hub.pem", folder / "hub.key", folder / "server.pem")
    with served(folder, reactor) as port:
        assert await call(policy, port, reactor) == "CN=hub.example.org"


@pytest.mark.parametrize(
    ("ca", "own", "host"),
    [("hub.pem", "hub", "localhost"), ("server.pem", "server", "localhost"), ("server.pem", "hub", "127.0.0.1")],
)
async def test_a_stranger_is_refused(folder: Path, reactor: Any, ca: str, own: str, host: str) -> None:
    """A server of another authority, a hub of another certificate, a server of another name."""
    policy = ClientPolicy(folder / f"{own}.pem", folder / f"{own}.key", folder / ca)
    with served(folder, reactor) as port, pytest.raises((ResponseNeverReceived, ResponseFailed)):
        await call(policy, port, reactor, host)


def test_a_file_that_is_wrong_is_named(folder: Path) -> None:
    """Before the first connection."""
    (folder / "empty").touch()
    hub, key, server = folder / "hub.pem", folder / "hub.key", folder / "server.key"
    with pytest.raises(ValueError, match=r"empty must hold certificates in PEM form"):
        ClientPolicy(ca=folder / "empty")
    with pytest.raises(ValueError, match=r"nowhere can't be read: No such file"):
        ClientPolicy(hub, folder / "nowhere")
    with pytest.raises(ValueError, match=r"hub.pem must hold a private key without password"):
        ClientPolicy(hub, hub)
    with pytest.raises(ValueError, match=r"the key .*server.key does not belong to .*hub.pem"):
        ClientPolicy(hub, server)
    ClientPolicy(hub, key)
