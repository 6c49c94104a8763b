"""A Redis of the test's own, that may be killed, stopped and started again on the same port and folder."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import MISSING, services_required

__all__ = ["RedisServer", "own_redis"]

START = 60.0


class RedisServer:
    """redis-server with every write on disk before it is answered; ``options`` are further ones of its own."""

    def __init__(self, program: str, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        durable = ("--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder))
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", *durable, *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers with what it has on disk."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START
        while not self._answers():
            assert self._process.poll() is None, "redis-server has ended"
            assert time.monotonic() < until, f"redis-server does not answer within {START:g} s"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            # Without its password it answers, too, if not to this.
            return not self.ask("PING").startswith(b"-LOADING")
        except OSError:
            return False

    def ask(self, line: str) -> bytes:
        """Send one command and give the answer as it comes."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(f"{line}\r\n".encode())
            return connection.recv(65536)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def hang(self) -> None:
        """Let it stand still, with its connections open."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)


@contextmanager
def own_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Give a Redis that runs, and end it; skip the test (in the CI: fail it) where there is no redis-server."""
    program = shutil.which("redis-server")
    if program is None:
        text = f"{MISSING}redis-server is not installed"
        if services_required():
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    server = RedisServer(program, folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
