"""The supervisor: a program of its own that runs jobs for a daemon and leaves nothing behind. Standard library only.

It reads orders from its standard input and tells of jobs on its standard output, one JSON object a line. Each job
runs below a process of `datahub.processes.warden`. The end of the daemon, however it comes, is the end of file of our
standard input; the end of the supervisor is that of each warden's socket: wardens then kill their jobs and end. A
warden that is killed itself leaves its orphans to the supervisor.

Its argument is a file that is locked (flock(2)) while the supervisor or one of its wardens lives: the next supervisor
says "ready" when it has got it, so that by then nothing of the former one runs.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Final

from datahub.processes.control import Control
from datahub.processes.kernel import IGNORED, be_subreaper, drain, send_signal, tree, wake_on_children
from datahub.processes.warden import warden

__all__ = ["Supervisor", "main"]

LOOK_AGAIN: Final = 0.01
LOCK_PATIENCE: Final = 20.0


class Hand:
    """A warden as the supervisor sees it."""

    def __init__(self, pid: int, control: Control) -> None:
        self.pid = pid
        self.control = control
        self.job: str | None = None

    def tell(self, line: bytes) -> None:
        """Give it an order; one that was just killed shows so when it is listened to."""
        with suppress(OSError):
            self.control.socket.sendall(line + b"\n")


class Supervisor:
    """Hands orders to wardens, and what they tell to the daemon."""

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self._wake = wake_on_children()
        self._hands: dict[int, Hand] = {}
        self._idle: list[Hand] = []
        self._orphaned: list[str] = []
        self._buffer = b""
        self._open = True

    def run(self) -> None:
        """Serve until the daemon is gone and nothing is left of any job."""
        while self._open or self._hands or self._orphaned:
            poll = select.poll()
            for each in (0, self._wake) if self._open else (self._wake,):
                poll.register(each, select.POLLIN)
            for fd in self._hands:
                poll.register(fd, select.POLLIN)
            for fd, _ in poll.poll(LOOK_AGAIN * 1000 if self._orphaned else None):
                if fd == 0:
                    self._hear()
                elif fd == self._wake:
                    drain(self._wake)
                else:
                    self._listen(self._hands[fd])
            self._reap()

    def _hear(self) -> None:
        data = os.read(0, 1 << 20)
        if not data:
            self._open = False
            for hand in self._hands.values():
                # One that was just killed has no other end.
                with suppress(OSError):
                    hand.control.socket.shutdown(socket.SHUT_WR)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "argv" in order:
                self._assign(order["job"], line)
            else:
                for hand in self._hands.values():
                    if hand.job == order["stop"]:
                        hand.tell(line)

    def _assign(self, job: str, line: bytes) -> None:
        hand = self._idle.pop() if self._idle else self._hire()
        hand.job = job
        hand.tell(line)

    def _hire(self) -> Hand:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                # Whatever else is open here would keep others from hearing of an end.
                keep = {2, self._lock, theirs.fileno()}
                for fd in {int(name) for name in os.listdir("/proc/self/fd")} - keep:  # noqa: PTH208
                    with suppress(OSError):
                        os.close(fd)
                warden(theirs)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        theirs.close()
        hand = self._hands[ours.fileno()] = Hand(pid, Control(ours))
        return hand

    def _listen(self, hand: Hand) -> None:
        for line in hand.control.lines():
            if line.startswith(b'{"ended"'):
                hand.job = None
                self._idle.append(hand)
            say(line)
        if hand.control.closed:
            del self._hands[hand.control.socket.fileno()]
            hand.control.socket.close()
            if hand in self._idle:
                self._idle.remove(hand)
            if hand.job is not None:
                self._orphaned.append(hand.job)

    def _reap(self) -> None:
        """Take note of wardens that ended, and kill what a killed one has left to us."""
        with suppress(ChildProcessError):
            while os.wait4(-1, os.WNOHANG)[0]:
                pass
        if not self._orphaned:
            return
        left = tree(os.getpid(), {hand.pid for hand in self._hands.values()})
        if left:
            send_signal(left, signal.SIGKILL)
            return
        for job in self._orphaned:
            say(json.dumps({"ended": job, "lost": "its warden was killed"}).encode())
        self._orphaned.clear()


def say(line: bytes) -> None:
    """Tell the daemon; if it is gone, that is heard elsewhere."""
    line += b"\n"
    with suppress(BrokenPipeError):
        while line:
            line = line[os.write(1, line) :]


def take_lock(path: str) -> tuple[int, bool]:
    """Wait until nothing of a former supervisor is left; whether that came about in time."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    until = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock, True
        except BlockingIOError:
            if time.monotonic() > until or select.select([0], [], [], 0.02)[0]:
                # No order comes before we are ready: what can be read is the end of file.
                return lock, False


def main() -> None:
    """Be the program."""
    for each in IGNORED:
        signal.signal(each, signal.SIG_IGN)
    be_subreaper(b"datahub-jobs")
    lock, alone = take_lock(sys.argv[1])
    gc.disable()
    say(json.dumps({"ready": alone}).encode())
    Supervisor(lock).run()
