"""A real XRootD server on loopback, by its own protocol and by WebDAV: it gives checksums and fetches from others."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from tests.gridftp import ORGANISATION, Authority, Peer, need_programs
from tests.whole.daemon import free_port

__all__ = ["XrootdServer", "need_xrootd"]

USER = "xrootd"
"""Whom it runs as where the tests are run by root: it refuses to be root."""

# It listens everywhere, and can't be told not to: so it talks to this host only.
CONFIGURATION = """
all.export /
oss.localroot {root}
all.adminpath {state}
all.pidpath {state}
all.sitename tests
xrd.port {port}
xrd.allow host localhost
xrd.tls {certificate} {key}
xrd.tlsca certdir {certificates}
xrd.protocol XrdHttp libXrdHttp.so
xrootd.seclib libXrdSec.so
sec.protocol gsi -certdir:{certificates} -cert:{certificate} -key:{key} -gridmap:{home}/gridmap -crl:0 -gmapopt:1
sec.protbind * only gsi
ofs.authorize 1
acc.authdb {home}/authdb
ofs.authlib ++ libXrdMacaroons.so
macaroons.secretkey {home}/secret
http.cadir {certificates}
http.gridmap {home}/gridmap
http.desthttps yes
tpc.trace all
http.header2cgi Authorization authz
http.exthandler xrdtpc libXrdHttpTPC.so
http.exthandler xrdmacaroons libXrdMacaroons.so
{more}
"""
CHECKSUMS = "xrootd.chksum adler32"


def need_xrootd() -> None:
    """Skip (in the CI: fail) the test where XRootD is not installed."""
    need_programs("XRootD", "xrootd", files=["usr/lib/*/libXrdSecgsi-5.so", "usr/lib/*/libXrdHttpTPC-5.so"])


class XrootdServer(Peer):
    """It lets in whoever has a certificate or proxy of "alice"; ``checksums`` says whether it knows any."""

    def __init__(self, authority: Authority, *, checksums: bool = True) -> None:
        super().__init__(authority)
        # Not where pytest's folders are, which nobody else may enter.
        self._home = Path(tempfile.mkdtemp(prefix="datahub-xrootd-"))
        self._home.chmod(0o755)
        self._more = CHECKSUMS if checksums else ""
        self.root = self._folder("root")
        self._state = self._folder("state")
        self._certificates = self._home / "certificates"
        shutil.copytree(authority.folder, self._certificates)
        certificate, key = authority.issue("xrootd", server=True)
        self._certificate = Path(shutil.copy(certificate, self._home))
        self._key = self._own(Path(shutil.copy(key, self._home)), 0o400)
        (self._home / "gridmap").write_text(f'"/O={ORGANISATION}/CN=alice" alice\n')
        (self._home / "authdb").write_text("u alice / a\n")
        (self._home / "secret").write_bytes(base64.encodebytes(secrets.token_bytes(64)))
        self._own(self._home / "secret", 0o400)

    def _folder(self, name: str) -> Path:
        path = self._home / name
        path.mkdir()
        return self._own(path, 0o700)

    def _own(self, path: Path, mode: int) -> Path:
        path.chmod(mode)
        if os.getuid() == 0:
            shutil.chown(path, USER)
        return path

    def url(self, path: Path | str) -> str:
        """Give the URL, in XRootD's own protocol, of a path in one of its rooms."""
        return f"root://localhost:{self.port}//{Path(path).relative_to(self.root)}"

    def web_url(self, path: Path | str) -> str:
        """The same for WebDAV."""
        return f"davs://localhost:{self.port}/{Path(path).relative_to(self.root)}"

    def room(self, home: Path) -> Path:
        """Give a folder below what it serves."""
        return self._own(Path(tempfile.mkdtemp(dir=self.root)), 0o700)

    def give(self, tree: Path) -> None:
        """Let the server own a tree in one of its rooms."""
        for each in [tree, *tree.rglob("*")]:
            self._own(each, 0o700)

    def log(self) -> str:
        """All that it has logged."""
        return "\n".join(each.read_text() for each in self._state.rglob("log"))

    def largest(self) -> int:
        """Give the size of the largest file that it has, be it under way."""
        return max((each.stat().st_size for each in self.root.rglob("*") if each.is_file()), default=0)

    def start(self) -> None:
        """Start it, on the port it had before or a new one."""
        self.port = self.port or free_port()
        values = {"home": self._home, "root": self.root, "state": self._state, "port": self.port, "more": self._more}
        certificates = {"certificate": self._certificate, "key": self._key, "certificates": self._certificates}
        (self._home / "xrootd.cfg").write_text(CONFIGURATION.format(**values, **certificates))
        user = ["-R", USER] if os.getuid() == 0 else []
        command = ["xrootd", *user, "-c", str(self._home / "xrootd.cfg"), "-l", str(self._state / "log"), "-n", "tests"]
        self._run(command, {"X509_CERT_DIR": str(self._certificates)})
        self._await_answer()

    def remove(self) -> None:
        """End it and leave nothing of it."""
        self.kill()
        shutil.rmtree(self._home)
