"""A Pacifica archive interface for whole daemons: a thread that serves files as slowly as a test wants, and counts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

__all__ = ["ServedArchive"]

STEP = 16 * 1024
MTIME = "1795317557.7232475"


class ServedArchive:
    """``files`` by id; ``pause`` is slept before each 16 KiB. What was begun and what was sent whole is counted."""

    def __init__(self, files: dict[str, bytes], pause: float = 0.0) -> None:
        self.files = files
        self.pause = pause
        self.begun: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        cast("Any", self._server).archive = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        """As ``[archive] url`` names it."""
        return f"pacifica+http://127.0.0.1:{self._server.server_address[1]}/"

    def enter(self, name: str) -> None:
        """Count a GET that begins."""
        with self._lock:
            self.begun[name] += 1
            self._now += 1
            self.most = max(self.most, self._now)

    def leave(self, name: str, *, whole: bool) -> None:
        """Count one that has ended."""
        with self._lock:
            self._now -= 1
            self.sent[name] += whole

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self._answer(200, b'{"message": "File was staged"}')

    def do_HEAD(self) -> None:
        data = self.server.archive.files.get(self.path[1:])
        if data is None:
            self._answer(404, b"")
            return
        self.send_response(204)
        self.send_header("X-Content-Length", str(len(data)))
        self.send_header("Last-Modified", MTIME)
        self.send_header("X-Pacifica-File-Storage-Media", "disk")
        self.end_headers()

    def do_GET(self) -> None:
        archive: ServedArchive = self.server.archive
        name = self.path[1:]
        data, whole = archive.files[name], False
        archive.enter(name)
        with suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            for at in range(0, len(data), STEP):
                time.sleep(archive.pause)
                self.wfile.write(data[at : at + STEP])
            whole = True
        archive.leave(name, whole=whole)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
