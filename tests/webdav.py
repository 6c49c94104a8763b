"""A real WebDAV server on loopback: nginx, which gives no checksums, and knows who comes by certificate."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.gridftp import Authority, Peer, need_programs
from tests.whole.daemon import free_port

__all__ = ["DavServer", "need_webdav"]

MODULE = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so"
CONFIGURATION = """
load_module {module};
# One process: nothing is left of it when it is killed.
daemon off;
master_process off;
user root;
pid {home}/pid;
error_log {home}/error.log info;
events {{}}
http {{
    access_log {home}/access.log;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_client_certificate {ca};
        ssl_verify_client optional;
        root {root};
        set $known "";
        if ($ssl_client_s_dn ~ "CN=alice") {{ set $known yes; }}
        if ($http_authorization = "Bearer of-alice") {{ set $known yes; }}
        if ($known = "") {{ return 403; }}
        dav_methods PUT DELETE MKCOL COPY MOVE;
        dav_ext_methods PROPFIND OPTIONS;
        location / {{}}
        location ~ /liar/ {{ add_header Digest adler32=00000001 always; }}
    }}
}}
"""


def need_webdav() -> None:
    """Skip (in the CI: fail) the test where nginx with its module for WebDAV is not installed."""
    need_programs("WebDAV", "nginx", files=[MODULE.lstrip("/")])


class DavServer(Peer):
    """It lets in whoever has a certificate of "alice", or her token; below a folder "liar" it tells false checksums."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority)
        self._home = authority.home / "webdav"
        self._root = self._home / "root"
        self._root.mkdir(parents=True)
        self._certificate, self._key = authority.issue("dav", server=True)

    def url(self, path: Path | str) -> str:
        """Give the URL of a path in one of its rooms."""
        return f"davs://localhost:{self.port}/{Path(path).relative_to(self._root)}"

    def room(self, home: Path) -> Path:
        """Give a folder below what it serves."""
        return Path(tempfile.mkdtemp(dir=self._root))

    def largest(self) -> int:
        """Give the size of the largest file that it has, be it under way."""
        return max((each.stat().st_size for each in self._home.rglob("*") if each.is_file()), default=0)

    def start(self) -> None:
        """Start it, on the port it had before or a new one."""
        self.port = self.port or free_port()
        values = {"module": MODULE, "home": self._home, "port": self.port, "root": self._root, "ca": self.authority.pem}
        text = CONFIGURATION.format(certificate=self._certificate, key=self._key, **values)
        (self._home / "nginx.conf").write_text(text)
        self._run(["nginx", "-c", str(self._home / "nginx.conf"), "-e", str(self._home / "error.log")], {})
        self._await_answer()
