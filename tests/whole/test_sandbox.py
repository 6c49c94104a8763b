"""The whole daemon before a fake Mesos that is a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.whole.daemon import ROOT, Daemon, until
from tests.whole.site import Site

MIB = 2**20
GIB = 2**30


class Mesos:
    """The fake's process."""

    def __init__(self, folder: Path, tasks: int = 0) -> None:
        self.sandbox = folder / "sandbox"
        self.sandbox.mkdir()
        program = [sys.executable, "-m", "tests.fakes.mesos_process", str(self.sandbox), str(tasks)]
        self.process = subprocess.Popen(
            program, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert self.process.stdout
        self.ports: dict[str, int] = json.loads(self.process.stdout.readline())

    @property
    def master(self) -> str:
        return f"http://127.0.0.1:{self.ports['master']}"

    @property
    def books(self) -> dict[str, int]:
        with urlopen(f"http://127.0.0.1:{self.ports['books']}/", timeout=60) as answer:
            found: dict[str, int] = json.load(answer)
            return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@contextmanager
def mesos(folder: Path, tasks: int = 0) -> Iterator[Mesos]:
    """Run a fake while the block runs."""
    fake = Mesos(folder, tasks)
    try:
        yield fake
    finally:
        fake.close()


def hub_before(site: Site, fake: Mesos, **section: Any) -> Daemon:
    """A hub that knows the fake's master."""
    return site.hub(sections={"sandbox": {"masters": [fake.master], **section}})


@contextmanager
def download(daemon: Daemon, path: str) -> Iterator[socket.socket]:
    """A connection on which an answer's head was read; its body is taken as slowly as one likes."""
    with socket.create_connection(("127.0.0.1", daemon.port), 60) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert b" 200 " in head.splitlines()[0], head
        yield connection


def test_fetch_by_curl(site: Site, tmp_path: Path) -> None:
    """The fetcher's own command gives the file's bytes; health tells of Mesos; a stop with a follower is a stop."""
    with mesos(tmp_path) as fake:
        (fake.sandbox / "stdout").write_bytes(b"Starting...\nJob Done\n")
        daemon = hub_before(site, fake, state_ttl="0 s")
        daemon.start()
        url = f"http://127.0.0.1:{daemon.port}/fetch/deployment?filename=stdout"
        curl = subprocess.run(["curl", "-s", "--fail", url], capture_output=True, check=True, timeout=50)
        assert curl.stdout == b"Starting...\nJob Done\n"
        assert daemon.call("GET", "/health").json["parts"]["mesos"] == "ok"
        with download(daemon, "/fetch/big?filename=stdout&follow=1") as follower:
            assert b"Job Done" in follower.recv(1000)
            with (fake.sandbox / "stdout").open("ab") as file:
                file.write(b"more\n")
            assert b"more" in follower.recv(1000)
            fake.close()
        assert daemon.call("GET", "/fetch/other?filename=stdout").status == 502
        daemon.stop(30)


@pytest.mark.timeout(180)
def test_five_hundred_at_once_of_a_large_cluster(site: Site, tmp_path: Path) -> None:
    """They are one state request of 100 MB, and no callback of the reactor takes over 50 ms of its own."""
    record = tmp_path / "longest"
    with mesos(tmp_path, 92_000) as fake:
        assert fake.books["bytes"] > 100_000_000
        (fake.sandbox / "stdout").write_bytes(b"x" * 1000)
        daemon = hub_before(site, fake, state_ttl="60 s")
        daemon.start((sys.executable, "-m", "tests.whole.watching", str(record), "--"))
        time.sleep(2.0)
        names = ["deployment", "big", "big.deployment"]

        def fetch(number: int) -> int:
            return daemon.call("GET", f"/fetch/{names[number % 3]}?filename=stdout", seconds=150).status

        with ThreadPoolExecutor(500) as callers:
            statuses = list(callers.map(fetch, range(500)))
        assert set(statuses) == {200}
        assert fake.books["state"] == 1
        assert daemon.call("GET", "/fetch/deployment-91999?filename=stdout").status in {404, 410}
        took, _, what = record.read_text().partition(" ")
        print(f"the longest callback: {took} s {what}; memory {daemon.memory() // MIB} MiB")  # noqa: T201
        assert float(took) < 0.05, what


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_five_gib_to_a_slow_caller(site: Site, tmp_path: Path) -> None:
    """Memory stays flat, the agent is held back, and hears at once when the caller leaves."""
    with mesos(tmp_path) as fake:
        with (fake.sandbox / "huge").open("wb") as file:
            file.truncate(5 * GIB)
        daemon = hub_before(site, fake, limit="6 GiB")
        daemon.start()
        daemon.call("GET", "/fetch/big?filename=huge&tail=0")
        base = daemon.memory()
        with download(daemon, "/fetch/big?filename=huge") as connection:
            taken = 0
            for _ in range(20):
                taken += len(connection.recv(MIB, socket.MSG_WAITALL))
                time.sleep(0.05)
            time.sleep(1)
            assert fake.books["sent"] - taken < 32 * MIB
            while data := connection.recv(MIB):
                taken += len(data)
        assert taken == 5 * GIB
        peak = daemon.memory("VmHWM")
        print(f"memory before {base // MIB} MiB, peak {peak // MIB} MiB")  # noqa: T201
        assert peak - base < 24 * MIB
        with download(daemon, "/fetch/big?filename=huge") as connection:
            connection.recv(1000)
            before = fake.books["left"]
        until(lambda: fake.books["left"] > before, "the agent hears that the caller left", 20)
