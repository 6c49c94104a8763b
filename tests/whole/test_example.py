"""`make run`: the example delivers a product and keeps the hub running, again and again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.whole.daemon import ROOT, until

PORT = 8080
STEPS = ["submitted", "staged", "moved", "verified", "it lies in"]
COMMAND = '#!/bin/sh\nexec {python} -c "from datahub.command import main; main()" "$@"\n'
RUN = "import runpy, sys; sys.executable = sys.argv[1]; runpy.run_path(sys.argv[2], run_name='__main__')"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Give the example with what it delivers in a folder of its own, and a `datahub` beside its python."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            pytest.skip(f"port {PORT} is in use, and the example has no other")
    for name in ("examples", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copyfile(ROOT / "README.md", tmp_path / "README.md")
    command = tmp_path / "bin" / "datahub"
    command.parent.mkdir()
    command.write_text(COMMAND.format(python=sys.executable))
    command.chmod(0o755)
    return tmp_path


def test_example(copied: Path) -> None:
    """Each step is printed, the product lies where it says, the hub lives until it is stopped; and again."""
    for number in (signal.SIGTERM, signal.SIGINT):
        said = run_example(copied, number)
        assert [line.strip().split("  ")[0] for line in said if line.startswith("  ")][2:7] == STEPS
        place = next(line for line in said if "it lies in" in line).split("file://")[1].strip()
        delivered = sorted(path.name for path in Path(place).rglob("*"))
        assert delivered == sorted(path.name for path in (copied / "docs").rglob("*"))
        assert any("curl" in line for line in said)


def run_example(folder: Path, number: int) -> list[str]:
    """Run the example until it has shown all, end it with a signal as a terminal would, and give what it printed."""
    out = folder / "out"
    command = [sys.executable, "-c", RUN, str(folder / "bin" / "python"), str(folder / "examples/first_delivery.py")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with out.open("wb") as file:
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        until(lambda: process.poll() is not None or "/health" in out.read_text(), "the end of the example", 100)
        assert process.poll() is None, out.read_text()
        connection = HTTPConnection("127.0.0.1", PORT, timeout=60)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        # Ctrl-C reaches all processes of the terminal, a SIGTERM the one it is sent to.
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.terminate()
        process.wait(60)
        until(lambda: not listens(), "a free port")
        assert "Traceback" not in out.read_text()
        return out.read_text().splitlines()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def listens() -> bool:
    """Whether somebody answers at the port."""
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", PORT), 1).close()
        return True
    return False
