"""The fake FTS server as a process, and what it is told."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from contextlib import suppress
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from tests.gridftp import Authority
from tests.whole.daemon import ROOT, free_port, until

__all__ = ["FtsProcess"]


class FtsProcess:
    """The fake FTS as a process."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.own = authority.issue("robot")
        self._process: subprocess.Popen[bytes] | None = None
        self._context = ssl.create_default_context(cafile=str(authority.pem))
        self._context.load_cert_chain(*map(str, self.own))

    def start(self) -> None:
        """Start it and wait until it answers."""
        certificate, key = self.authority.issue("server", server=True)
        command = [sys.executable, "-m", "tests.fakes.fts3", str(self.port), certificate, key, self.authority.pem]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen([str(each) for each in command], cwd=ROOT, env=environ)

        def answers() -> bool:
            with suppress(URLError, OSError):
                return bool(self.seen())
            return False

        until(answers, "the fake FTS answers", 30)

    def stop(self) -> None:
        """End it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def tell(self, what: str) -> None:
        """Tell it how to behave."""
        urlopen(Request(f"{self.url}/fake/{what}", method="PUT"), context=self._context, timeout=10).close()

    def seen(self) -> dict[str, Any]:
        """Give what it has done."""
        with urlopen(f"{self.url}/fake/seen", context=self._context, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def count(self) -> int:
        """Give how much it was asked."""
        with urlopen(f"{self.url}/fake/count", context=self._context, timeout=10) as answer:
            return int(json.load(answer)["asked"])

    def await_asked(self, count: int) -> None:
        """Wait until it was asked so much in all."""
        until(lambda: self.count() >= count, f"{self.url} is asked {count} times")

    def await_job(self) -> None:
        """Wait until it has a job."""
        until(lambda: self.seen()["jobs"], f"{self.url} has a job")

    def options(self) -> dict[str, str]:
        """Give what the hub needs to know to hand over to it."""
        certificate, key = map(str, self.own)
        trust = str(self.authority.pem)
        return {"certificate": certificate, "key": key, "ca": trust, "source": "gsiftp://hub.example.org"}
