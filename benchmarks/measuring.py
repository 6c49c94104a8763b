"""What the benchmarks share: rounds that alternate, figures with their spread, a hub of one's own, and its process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any, TypeVar

__all__ = ["Hub", "Process", "alternate", "free_port", "ratio", "room", "show", "spread", "title"]

Name = TypeVar("Name")
TOP = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 60.0
PROBE = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SERVE = (sys.executable, "-c", "from datahub.command import main; main()", "serve", "--config")


def alternate(rounds: int, measures: Mapping[Name, Callable[[], float]]) -> dict[Name, list[float]]:
    """Take each measure once a round, every other round in reverse, so that all see the same machine.

    Gives the values by name. A disk that is fast until its burst is used up favours whoever comes first.
    """
    found: dict[Name, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in list(measures) if number % 2 == 0 else reversed(list(measures)):
            found[name].append(measures[name]())
    return found


def ratio(values: Sequence[float], peers: Sequence[float]) -> list[float]:
    """Divide value by value: each was taken right beside its peer."""
    return [value / peer for value, peer in zip(values, peers, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Write the median and, in brackets, the smallest and the largest."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"


def title(text: str, *columns: str) -> None:
    """Begin a table."""
    print(f"\n== {text}")
    show("", *columns)


def show(what: str, *cells: str) -> None:
    """Print one line of a table."""
    print(f"{what:<44}" + "".join(f" {cell:>30}" for cell in cells), flush=True)


@contextmanager
def room() -> Iterator[Path]:
    """Give a folder on the disk of the project (a temporary one may lie in memory), removed at the end."""
    build = TOP / "build"
    build.mkdir(exist_ok=True)
    folder = Path(mkdtemp(prefix="benchmark-", dir=build))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or the folder and the hubs in it would stay
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def free_port() -> int:
    """Give a TCP port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Process:
    """A server that is measured: what it costs is read from the kernel's books."""

    popen: subprocess.Popen[bytes]
    port: int
    begun: float

    @classmethod
    def start(cls, command: Sequence[str | Path], port: int, folder: Path) -> Process:
        """Execute ``command`` in ``folder``, its output kept in ``out`` there."""
        environ = {**os.environ, "PYTHONPATH": str(TOP)}
        begun = time.perf_counter()
        with (folder / "out").open("ab") as out:
            return cls(subprocess.Popen(command, cwd=folder, env=environ, stdout=out, stderr=out), port, begun)

    def await_answer(self, path: str = "/ready") -> None:
        """Wait until ``path`` is answered with 200."""
        until = time.monotonic() + PATIENCE
        while not self._answers(path):
            if self.popen.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{self.popen.args!r} does not answer")
            time.sleep(0.002)

    def _answers(self, path: str) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(PROBE % path.encode())
            return connection.recv(12).endswith(b" 200")
        return False

    def cpu(self) -> float:
        """Give the processor time used so far, by all threads, in seconds."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self, line: str = "VmRSS") -> float:
        """Give the resident memory in MiB; "VmHWM" is the peak."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(status.partition(f"{line}:")[2].split()[0]) / 1024

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        Path(f"/proc/{self.popen.pid}/clear_refs").write_text("5")

    def stop(self) -> None:
        """End it and wait."""
        self.popen.terminate()
        self.popen.wait(PATIENCE)


class Hub:
    """A hub with a folder of its own: ``archive``, ``deliveries`` and ``state`` are in it."""

    def __init__(
        self,
        folder: Path,
        workers: Sequence[str] = ("transfers",),
        more: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self.archive = folder / "archive"
        self.deliveries = folder / "deliveries"
        self.database = folder / "state" / "datahub.sqlite"
        self.config = folder / "datahub.toml"
        self.port = free_port()
        for each in (self.archive, self.deliveries):
            each.mkdir(parents=True, exist_ok=True)
        self.config.write_text(self._configuration(workers, more or {}))

    def _configuration(self, workers: Sequence[str], more: Mapping[str, Mapping[str, Any]]) -> str:
        sections: dict[str, dict[str, Any]] = {
            "hub": {"state": "state", "node": "bench", "workers": list(workers), "min_free": "1 MB", "drain": "1 s"},
            "archive": {"url": self.archive.as_uri()},
            "auth": {"anonymous": ["read", "write"]},
            "transfers.movers": {"file": f"local:{self.deliveries}"},
            "log": {"directory": str(self.folder / "log")},
        }
        for name, keys in more.items():
            sections[name] = {**sections.get(name, {}), **keys}
        lines = ["[[listen]]", f'endpoint = "tcp:{self.port}:interface=127.0.0.1"']
        for name, keys in sections.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        return "\n".join(lines) + "\n"

    def start(self) -> Process:
        """Start the daemon, without waiting for it."""
        return Process.start([*SERVE, self.config], self.port, self.folder)

    @contextmanager
    def running(self) -> Iterator[Process]:
        """Run the daemon while the block runs."""
        process = self.start()
        try:
            process.await_answer()
            yield process
        finally:
            process.stop()
