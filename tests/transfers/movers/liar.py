"""A WebDAV server over TLS (RFC 4918, as far as gfal2 asks for it) that lies, as a test chooses."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from twisted.internet import ssl
from twisted.internet.task import LoopingCall
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.gridftp import Authority

__all__ = ["Liar"]

FOUND = """<?xml version="1.0"?><D:multistatus xmlns:D="DAV:"><D:response><D:href>{path}</D:href><D:propstat><D:prop>
<D:resourcetype>{kind}</D:resourcetype><D:getcontentlength>{size}</D:getcontentlength>
<D:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</D:getlastmodified></D:prop>
<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>"""


class Liar(Resource):
    """``lie`` is "" for none, or what it does with what is put there.

    It "halves" it, "forgets" it, gives it back with other bytes "behind" it for ever, gives it back by a byte a second
    ("drips"), or never ends the head of an answer ("heads").
    """

    isLeaf = True

    def __init__(self, authority: Authority, reactor: Any, home: Path) -> None:
        super().__init__()
        self.lie = ""
        self.files: dict[str, bytes] = {}
        self.folders = {"/"}
        certificate, key = authority.issue("liar", server=True)
        context = ssl.DefaultOpenSSLContextFactory(str(key), str(certificate))
        self._home = home
        self._saying: list[LoopingCall] = []
        self._listening = reactor.listenSSL(0, Site(self), context, interface="127.0.0.1")
        self.port: int = self._listening.getHost().port

    def room(self, home: Path) -> Path:
        """Give a folder by whose path things are named; nothing is there."""
        return self._home

    def url(self, path: Path | str) -> str:
        """Give the URL of a path."""
        return f"davs://localhost:{self.port}{path}"

    async def stop(self) -> None:
        """Take no more connections, and say nothing more."""
        for each in self._saying:
            _hush(each)
        await self._listening.stopListening()

    def render(self, request: Any) -> Any:
        """Answer."""
        method, path = request.method.decode(), "/" + request.path.decode().strip("/")
        if self.lie == "heads" and method == "PROPFIND":
            return self._without_end(request, b"HTTP/1.1 207 Multi-Status\r\n", b"X-More: and more\r\n" * 100, 0.01)
        verb = getattr(self, f"_{method.lower()}", None)
        if verb is None:
            request.setResponseCode(405)
            return b""
        return verb(request, path)

    def _without_end(self, request: Any, first: bytes, piece: bytes, every: float) -> object:
        transport = request.channel.transport
        transport.write(first)
        saying = LoopingCall(lambda: transport.write(piece))
        self._saying.append(saying)
        request.notifyFinish().addErrback(lambda _: _hush(saying))
        saying.start(every)
        return NOT_DONE_YET

    def _propfind(self, request: Any, path: str) -> bytes:
        if path not in self.files and path not in self.folders:
            request.setResponseCode(404)
            return b""
        request.setResponseCode(207)
        kind = "<D:collection/>" if path in self.folders else ""
        return FOUND.format(path=path, kind=kind, size=len(self.files.get(path, b""))).encode()

    def _mkcol(self, request: Any, path: str) -> bytes:
        self.folders.add(path)
        request.setResponseCode(201)
        return b""

    def _put(self, request: Any, path: str) -> bytes:
        data = request.content.read()
        if self.lie != "forgets":
            self.files[path] = data[: len(data) // 2] if self.lie == "halves" else data
        request.setResponseCode(201)
        return b""

    def _delete(self, request: Any, path: str) -> bytes:
        request.setResponseCode(404 if self.files.pop(path, None) is None else 204)
        return b""

    def _move(self, request: Any, path: str) -> bytes:
        target = "/" + re.sub("^[a-z]+://[^/]+/", "", request.getHeader("destination"))
        self.files[target] = self.files.pop(path)
        request.setResponseCode(201)
        return b""

    def _get(self, request: Any, path: str) -> Any:
        data = self.files.get(path)
        if data is None:
            request.setResponseCode(404)
            return b""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
        if self.lie == "behind":
            return self._without_end(request, head + data, os.urandom(100_000), 0.01)
        if self.lie == "drips":
            return self._without_end(request, head, b"x", 1.0)
        return data

    def _head(self, request: Any, path: str) -> bytes:
        if path not in self.files:
            request.setResponseCode(404)
        return self.files.get(path, b"")


def _hush(saying: LoopingCall) -> None:
    if saying.running:
        saying.stop()
