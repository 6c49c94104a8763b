"""The real daemon as a process of its own: started, spoken to over HTTP, killed, started again, stopped."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

__all__ = ["FINAL", "ROOT", "SOON", "Answer", "Daemon", "Lost", "crashing", "free_port", "until", "write_toml"]

ROOT = Path(__file__).parents[2]
FINAL = ("SUCCESS", "ERROR", "CANCELLED")
# What a machine may take that is busy with other things; nothing here waits longer than it must.
SOON = 60.0
START = 60.0
STOP = 60.0
STEP = 0.04
TWISTD = (str(Path(sys.executable).with_name("twistd")),)
FOREGROUND = ("--nodaemon", "--pidfile=")
DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
_libc = ctypes.CDLL(None)

Sections = Mapping[str, Mapping[str, Any]]


class Lost(Exception):
    """No answer came: whether the request was taken is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def until(condition: Callable[[], Any], what: str, seconds: float = SOON) -> Any:
    """Give what ``condition`` gives as soon as that is true; fail, naming ``what``, after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(STEP)


def free_port() -> int:
    """Give a TCP port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def crashing(*points: str) -> tuple[str, ...]:
    """Give the command that runs twistd with the crash or pause ``points`` of `tests.whole.crashing`."""
    return (sys.executable, "-m", "tests.whole.crashing", *points, "--")


def write_toml(path: Path, sections: Sections, listens: Iterable[str]) -> None:
    """Write a configuration; ``listens`` are the endpoints."""
    lines = [f"[[listen]]\nendpoint = {json.dumps(each)}" for each in listens]
    for name, keys in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text("\n".join(lines) + "\n")


class Daemon:
    """One hub with its configuration file; it may live many times."""

    def __init__(self, config: Path, port: int, environ: Mapping[str, str] | None = None) -> None:
        self.config = config
        self.port = port
        self.environ = dict(environ or {})
        self.out = config.with_suffix(".out")
        self.err = config.with_suffix(".err")
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self, command: Sequence[str] = TWISTD, options: Sequence[str] = FOREGROUND) -> None:
        """Start the process without waiting for anything; ``command`` stands in place of twistd."""
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", **self.environ}
        with self.out.open("ab") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*command, *options, "datahub", "--config", str(self.config)],
                cwd=self.config.parent,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it takes no lock
            )

    def start(self, command: Sequence[str] = TWISTD, seconds: float = START) -> None:
        """Start the process and wait until it takes work."""
        self.spawn(command)
        self.await_ready(seconds)

    def await_ready(self, seconds: float = START) -> None:
        """Wait until the hub takes work."""
        self.await_answer("/ready", seconds)

    def await_answer(self, path: str, seconds: float = START) -> None:
        """Wait for a 200 at ``path``; fail at once when the process ends."""

        def answers() -> bool:
            assert self.running, f"the daemon ended: {self.stderr or self.log[-2000:]}"
            with suppress(Lost):
                return self.call("GET", path).status == 200
            return False

        until(answers, f"a daemon that answers at {path}", seconds)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    @property
    def log(self) -> str:
        return self.out.read_text(errors="replace") if self.out.exists() else ""

    @property
    def stderr(self) -> str:
        return self.err.read_text(errors="replace") if self.err.exists() else ""

    def memory(self, line: str = "VmRSS") -> int:
        """Give the resident memory in bytes; with VmHWM the most that it ever was."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{line}:")[2].split()[0]) * 1024

    def kill(self) -> None:
        """End the process as a power cut would."""
        assert self.process
        self.process.kill()
        self.process.wait(STOP)

    def stop(self, seconds: float = STOP) -> None:
        """Ask the process to end, and see that it does so in good order."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        # Once it has stopped, twistd ends by the signal that it was sent.
        assert self.ended(seconds) in {0, -signal.SIGTERM}
        assert "datahub has stopped" in self.log[-1000:]

    def ended(self, seconds: float = START) -> int:
        """Wait for the end of the process, and give its exit code; one that hangs tells where before it is killed."""
        assert self.process
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler prints the stack of every thread
            self.process.wait(STOP)
            raise

    def close(self) -> None:
        """Leave no process, and show what it said: pytest prints that for a test that failed."""
        if self.running:
            self.kill()
        print(f"== {self.config.name}\n{self.stderr}{self.log[-12000:]}")  # noqa: T201 - for people, see above

    def call(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = SOON,
    ) -> Answer:
        """Send one request; raises `Lost` when no answer comes."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read().decode())
        except (OSError, HTTPException) as error:
            raise Lost(str(error)) from error
        finally:
            connection.close()

    def post(self, fields: Mapping[str, str], key: str | None = None) -> Answer:
        """Submit a transfer by a form."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if key is not None:
            headers["Idempotency-Key"] = key
        return self.call("POST", "/submitTransfer", urlencode(fields), headers)

    def submit(self, product: str, destination: str, key: str | None = None, **more: str) -> str:
        """Submit a transfer that must be taken, and give its id."""
        answer = self.post({"product_id": product, "destination_path": destination, **more}, key)
        assert answer.status == 202, answer
        return str(answer.json["job_id"])

    def cancel(self, job: str) -> Answer:
        """Cancel a transfer."""
        return self.call("DELETE", f"/transfers/{job}")

    def status(self, job: str) -> dict[str, Any]:
        """Give what the hub tells of a transfer."""
        answer = self.call("GET", f"/transferStatus?job_id={job}")
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    def await_status(self, job: str, *wanted: str, seconds: float = SOON) -> dict[str, Any]:
        """Wait until the transfer has one of the ``wanted`` states."""
        seen: dict[str, Any] = {}

        def there() -> bool:
            seen.update(self.status(job))
            return seen["status"] in wanted

        try:
            until(there, f"{job} is {' or '.join(wanted)}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen}") from None
        return self.status(job)

    def await_final(self, jobs: Iterable[str], seconds: float = SOON) -> list[dict[str, Any]]:
        """Wait until all transfers have ended, and give what is told of each."""
        end = time.monotonic() + seconds
        return [self.await_status(job, *FINAL, seconds=max(1.0, end - time.monotonic())) for job in jobs]

    def await_retry(self, job: str, seconds: float = SOON) -> dict[str, Any]:
        """Wait until the transfer waits to be tried again, and give what is told of it."""
        waiting: dict[str, Any] = until(
            lambda: (seen := self.status(job)).get("waiting_on", {}).get("what") == "retry" and seen,
            f"{job} waits to be tried again",
            seconds,
        )
        return waiting


def _die_with_parent() -> None:
    _libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)
