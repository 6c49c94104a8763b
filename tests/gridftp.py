"""Real grid servers on loopback: what they have in common, their certificates, and one of GridFTP with GSI."""

from __future__ import annotations

import ctypes
import datetime as dt
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from datahub.transfers.movers import proxies
from tests.servers import MISSING, services_required

__all__ = ["ORGANISATION", "Authority", "GridServer", "Peer", "need_grid", "need_programs"]

ORGANISATION = "Datahub Tests"
SERVER = "globus-gridftp-server"
DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
START = 20.0
DAY = 86400
PEM = serialization.Encoding.PEM
_libc = ctypes.CDLL(None)


def need_grid() -> None:
    """Skip (in the CI: fail) the test where the programs of GridFTP are not installed."""
    need_programs("GridFTP", SERVER, "globus-url-copy", "openssl")


def need_programs(what: str, *programs: str, files: Sequence[str] = ()) -> None:
    """Skip (in the CI: fail) the test where gfal2, a program, or one of ``files`` (patterns) is not installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    lacking = [each for each in programs if shutil.which(each, path=path) is None]
    lacking += [each for each in files if not any(Path("/").glob(each))]
    if subprocess.run(["/usr/bin/python3", "-c", "import gfal2"], capture_output=True, check=False).returncode:
        lacking.append("python3-gfal2")
    if not lacking:
        return
    text = f"{MISSING}{what} ({', '.join(lacking)} not there); see .ci/run for the packages"
    if services_required():
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def _name(common: str) -> x509.Name:
    names = [(NameOID.ORGANIZATION_NAME, ORGANISATION), (NameOID.COMMON_NAME, common)]
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in names])


@dataclass
class Authority:
    """Who signs; ``folder`` is what X509_CERT_DIR names."""

    home: Path
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.home / "certificates"
        self.folder.mkdir(parents=True)
        self.key = rsa.generate_private_key(65537, 2048)
        self.certificate = self._sign(_name("CA"), self.key.public_key(), DAY, [x509.BasicConstraints(True, None)])
        self.pem = self.home / "ca.pem"
        self.pem.write_bytes(self.certificate.public_bytes(PEM))
        policy = (
            f"access_id_CA X509 '/O={ORGANISATION}/CN=CA'\npos_rights globus CA:sign\n"
            f"cond_subjects globus '\"/O={ORGANISATION}/*\"'\n"
        )
        for kind in ("-subject_hash", "-subject_hash_old"):
            found = subprocess.run(
                ["openssl", "x509", "-noout", kind, "-in", str(self.pem)], capture_output=True, check=True, text=True
            )
            (self.folder / f"{found.stdout.strip()}.0").write_bytes(self.pem.read_bytes())
            (self.folder / f"{found.stdout.strip()}.signing_policy").write_text(policy)

    def _sign(
        self, name: x509.Name, key: rsa.RSAPublicKey, seconds: float, extensions: list[x509.ExtensionType]
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(_name("CA"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(seconds=seconds))
        )
        for each in extensions:
            builder = builder.add_extension(each, critical=isinstance(each, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, common: str, *, server: bool = False, seconds: float = DAY) -> tuple[Path, Path]:
        """Give certificate and key as files; a server's is good for localhost."""
        key = rsa.generate_private_key(65537, 2048)
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        extensions: list[x509.ExtensionType] = [x509.SubjectAlternativeName(names)] if server else []
        certificate = self._sign(_name(common), key.public_key(), seconds, extensions)
        slug = common.replace(" ", "-")
        paths = self.home / f"{slug}.pem", self.home / f"{slug}.key"
        paths[0].write_bytes(certificate.public_bytes(PEM))
        _write_secret(paths[1], _secret(key))
        return paths

    def proxy(self, common: str, *, seconds: float = DAY / 2, began: float = 0.0, name: str = "proxy") -> Path:
        """Give a proxy of a new certificate for ``common``, that is made ``began`` seconds from now."""
        own = proxies.load(*self.issue(common))
        key = rsa.generate_private_key(65537, 2048)
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        chain = proxies.sign(request.public_bytes(PEM), own, time.time() + began, seconds)
        first, end, rest = chain.partition(b"-----END CERTIFICATE-----\n")
        path = self.home / f"{name}.pem"
        _write_secret(path, first + end + _secret(key) + rest)
        return path


def _secret(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


class Peer:
    """A server's process on loopback, and all that it starts."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def room(self, home: Path) -> Path:
        """Give a folder for one test, in which the server may write; ``home`` is the test's own."""
        return home

    def _run(self, command: list[str], environ: dict[str, str]) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin", **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - it takes no lock
        )
        return self._process

    def _await_answer(self) -> None:
        end = time.monotonic() + START
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
                return
            assert time.monotonic() < end, f"the server does not answer: {self._process}"
            time.sleep(0.05)

    def freeze(self) -> None:
        """Let it and all its sessions do nothing, until `thaw`."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it and all its sessions, in the middle of whatever they do."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


class GridServer(Peer):
    """A GridFTP server; it lets "alice" in as whoever runs the tests."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority)
        self.home = authority.home
        self._certificate, self._key = authority.issue("server", server=True)
        self._map = self.home / "grid-mapfile"
        self._map.write_text(f'"/O={ORGANISATION}/CN=alice" {getpass.getuser()}\n')

    def url(self, path: Path | str) -> str:
        """Give the URL of a path of this host."""
        return f"gsiftp://localhost:{self.port}{path}"

    def start(self) -> None:
        """Start it, on the port it had before or a new one."""
        environ = {
            "X509_CERT_DIR": str(self.authority.folder),
            "X509_USER_CERT": str(self._certificate),
            "X509_USER_KEY": str(self._key),
            "GRIDMAP": str(self._map),
        }
        here = ["-control-interface", "127.0.0.1", "-data-interface", "127.0.0.1"]
        log = ["-l", str(self.home / "gridftp.log"), "-log-level", "ERROR,WARN,INFO"]
        process = self._run([SERVER, "-allow-root", "-p", str(self.port), *here, *log], environ)
        if self.port == 0:
            self.port = _told_port(process)
        else:
            self._await_answer()


def _told_port(process: subprocess.Popen[str]) -> int:
    """Read the port that the system has chosen."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r":(\d+)\s*$", line)
    assert found, f"the GridFTP server says {line!r}"
    return int(found[1])


def _die_with_parent() -> None:
    _libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)
