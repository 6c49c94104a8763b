"""What the supervisor and its wardens ask of Linux: trees of processes, adoption, signals. Standard library only."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

__all__ = [
    "IGNORED",
    "Process",
    "be_subreaper",
    "drain",
    "libc",
    "send_signal",
    "start_of",
    "stat_of",
    "tree",
    "wake_on_children",
]

PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36
# What systemd or a terminal sends to all of us is the daemon's to act on; a job gets the defaults back.
IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ)
libc: Final = ctypes.CDLL(None, use_errno=True)


class Process(NamedTuple):
    """One process: its pid is it only together with ``start``, the kernel's ticks from boot to its beginning."""

    pid: int
    group: int
    start: int


def tree(root: int, without: Collection[int] = ()) -> list[Process]:
    """The processes below ``root``; not those of ``without``, nor what is below them."""
    children: dict[int, list[tuple[Process, bool]]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib is not loaded here
        if not name.isdecimal():
            continue
        try:
            facts = stat_of(int(name))
            process = Process(int(name), int(facts[2]), int(facts[19]))
        except (OSError, IndexError):
            continue
        children.setdefault(int(facts[1]), []).append((process, facts[0] in b"ZX"))
    found, waiting = [], [Process(root, 0, 0)]
    while waiting:
        parent = waiting.pop()
        for each, dead in children.get(parent.pid, ()):
            # One that is older than its parent is not its child: the parent has got the number of a former one.
            if each.pid not in without and each.start >= parent.start:
                waiting.append(each)
                if not dead:
                    found.append(each)
    return found


def send_signal(processes: Iterable[Process], number: int) -> None:
    """Send a signal to each of ``processes`` that is still there, and never to one that has its pid now."""
    for each in processes:
        with suppress(OSError, IndexError):
            handle = os.pidfd_open(each.pid)
            try:
                if start_of(each.pid) == each.start:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def be_subreaper(name: bytes) -> None:
    """Adopt what our descendants leave behind; ``name`` is what ps shows."""
    libc.prctl(PR_SET_NAME, name, 0, 0, 0)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this kernel has no PR_SET_CHILD_SUBREAPER")


def wake_on_children() -> int:
    """Give a descriptor that can be read when a child has ended."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def drain(reader: int) -> None:
    """Forget that we were woken."""
    with suppress(BlockingIOError):
        os.read(reader, 4096)


def stat_of(pid: int) -> list[bytes]:
    """What proc(5) has in ``/proc/PID/stat`` behind the name: state, parent, group and so on. Raises `OSError`."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - pathlib is not loaded here
        return file.read(1024).rpartition(b")")[2].split()


def start_of(pid: int) -> int:
    """Give the time at which a process started, in the kernel's ticks since boot; with it a pid is one process."""
    return int(stat_of(pid)[19])
