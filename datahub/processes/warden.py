"""A warden: it runs one job at a time and lets go of it when no process of it is left. Standard library only.

It adopts whatever a job leaves behind (prctl(2), PR_SET_CHILD_SUBREAPER), and kills it, again and again, until there is
nothing more. So it is free for the next job afterwards, which costs one posix_spawn and no Python.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import suppress
from typing import Any, Final

from datahub.processes.capture import Stream
from datahub.processes.control import Control
from datahub.processes.kernel import be_subreaper, drain, send_signal, start_of, tree, wake_on_children
from datahub.processes.spawning import spawn

__all__ = ["Job", "warden"]

TELL_EVERY: Final = 0.02
COUNT_EVERY: Final = 0.1
FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.2


class Job:
    """One job, from its start until no process of it is left."""

    def __init__(self, order: dict[str, Any], control: Control, wake: int) -> None:
        self.number = order["job"]
        self._order = order
        self._control = control
        self._wake = wake
        self._streams = [Stream(path, order["keep"]) for path in order["output"]]
        self._leader = 0
        self._status: int | None = None
        self._over = False
        self._cause: str | None = None
        self._kill_at: float | None = None
        self._pause = FIRST_PAUSE
        self._usage = [0.0, 0.0, 0]
        self._told: list[Any] = [stream.facts() for stream in self._streams]
        now = time.monotonic()
        self._deadline = now + order["timeout"]
        self._tell_at = self._count_at = now
        self._most = order["limits"].get("processes")

    def run(self) -> None:
        """Do it all, and tell what came out."""
        error = self._begin()
        if error is None:
            self._watch()
        for stream in self._streams:
            stream.finish()
        os.chdir("/")
        self._control.tell({"ended": self.number, **self._outcome(error)})

    def _begin(self) -> str | None:
        order, streams = self._order, self._streams
        stdin = -1
        try:
            stdin = os.open(order["stdin"] or "/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            self._leader = spawn(order, stdin, streams[0].writer, streams[-1].writer)
        except OSError as error:
            return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        except ValueError as error:
            return str(error)
        finally:
            if stdin >= 0:
                os.close(stdin)
            for stream in streams:
                stream.begin()
        self._control.tell({"job": self.number, "pid": self._leader, "start": start_of(self._leader)})
        return None

    def _watch(self) -> None:
        while True:
            alone = self._reap()
            if self._status is not None and alone:
                return
            self._mind_the_time(time.monotonic())
            self._wait()

    def _reap(self) -> bool:
        """Take note of who has ended; whether nobody is left."""
        if not self._over and os.waitid(os.P_PID, self._leader, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            self._over = True
            if self._cause is None:
                # While its leader is not reaped nobody else can have this group's number.
                self._signal_group(signal.SIGKILL)
                self._kill_at = 0.0
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._leader:
                self._status = status
            self._usage[0] += usage.ru_utime
            self._usage[1] += usage.ru_stime
            self._usage[2] = max(self._usage[2], usage.ru_maxrss)

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._leader, number)

    def _mind_the_time(self, now: float) -> None:
        if self._cause is None and not self._over:
            if now >= self._deadline:
                self.stop("timeout", self._order["grace"])
            elif self._most is not None and now >= self._count_at:
                self._count_at = now + COUNT_EVERY
                self._count(self._most)
        if self._kill_at is not None and now >= self._kill_at:
            if self._status is None:
                self._signal_group(signal.SIGKILL)
            send_signal(tree(os.getpid()), signal.SIGKILL)
            self._kill_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        if now >= self._tell_at:
            facts = [stream.facts() for stream in self._streams]
            if facts != self._told and self._control.tell({"job": self.number, "output": facts}, must=False):
                self._told = facts
                self._tell_at = now + TELL_EVERY

    def _count(self, most: int) -> None:
        """Stop a job of too many processes. The kernel's own limit counts all of a user's, and none of root's."""
        with open("/proc/loadavg", "rb", buffering=0) as file:  # noqa: PTH123 - pathlib is not loaded here
            there = int(file.read(128).split()[3].partition(b"/")[2])
        if there > most and len(tree(os.getpid())) > most:
            self.stop("processes", 0)

    def stop(self, cause: str, grace: float) -> None:
        """End the job: SIGTERM to all of it, and after ``grace`` seconds SIGKILL."""
        now = time.monotonic()
        if self._cause is not None or self._over:
            self._kill_at = now + grace if self._kill_at is None else min(self._kill_at, now + grace)
            return
        self._cause = cause
        self._kill_at = now + grace
        if grace > 0:
            self._signal_group(signal.SIGTERM)
            self._signal_group(signal.SIGCONT)
            send_signal([each for each in tree(os.getpid()) if each.group != self._leader], signal.SIGTERM)

    def _wait(self) -> None:
        """Wait for a child's end, output, an order, or for the next thing that is due."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if not self._control.closed:
            poll.register(self._control.socket, select.POLLIN)
        streams = {stream.reader: stream for stream in self._streams if stream.reader >= 0}
        for each in streams:
            poll.register(each, select.POLLIN)
        for fd, events in poll.poll(self._patience()):
            if fd == self._wake:
                drain(self._wake)
            elif fd in streams:
                if events & select.POLLIN:
                    streams[fd].take()
                else:
                    os.close(fd)
                    streams[fd].reader = -1
            else:
                self._obey()

    def _patience(self) -> float:
        due = [self._deadline] if self._cause is None else []
        if self._kill_at is not None:
            due.append(self._kill_at)
        if self._most is not None and self._cause is None:
            due.append(self._count_at)
        if self._told != [stream.facts() for stream in self._streams]:
            due.append(self._tell_at)
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else 60_000

    def _obey(self) -> None:
        for order in self._control.orders():
            if order.get("stop") == self.number:
                self.stop(order["cause"], order["grace"])
        if self._control.closed:
            self.stop("lost", 0)

    def _outcome(self, error: str | None) -> dict[str, Any]:
        status = self._status or 0
        exited = error is None and os.WIFEXITED(status)
        return {
            "code": os.WEXITSTATUS(status) if exited else None,
            "signal": os.WTERMSIG(status) if error is None and not exited else None,
            "core": error is None and os.WCOREDUMP(status),
            "cause": self._cause,
            "error": error,
            "usage": self._usage,
            "output": [stream.facts() for stream in self._streams],
        }


def warden(end: socket.socket) -> None:
    """Serve jobs, one after the other, until the supervisor is gone."""
    be_subreaper(b"datahub-warden")
    wake = wake_on_children()
    control = Control(end)
    while not control.closed:
        for order in control.orders():
            if "argv" in order:
                Job(order, control, wake).run()
