"""What the supervisor and its wardens ask of Linux: trees of processes, adoption, signals. Standard library only."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Collection
from contextlib import suppress
from typing import Final

__all__ = ["IGNORED", "be_subreaper", "drain", "libc", "send_signal", "start_of", "tree", "wake_on_children"]

PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36
# What systemd or a terminal sends to all of us is the daemon's to act on; a job gets the defaults back.
IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ)
libc: Final = ctypes.CDLL(None, use_errno=True)


def tree(root: int, without: Collection[int] = ()) -> list[tuple[int, int]]:
    """The processes below ``root``, as pid and process group; not those of ``without``, nor what is below them."""
    children: dict[int, list[tuple[int, int, bool]]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib is not loaded here
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - pathlib costs as much again
                state, parent, group, *_ = file.read(512).rpartition(b")")[2].split(None, 3)
        except (OSError, ValueError):
            continue
        children.setdefault(int(parent), []).append((int(name), int(group), state in b"ZX"))
    found, waiting = [], [root]
    while waiting:
        for pid, group, dead in children.get(waiting.pop(), ()):
            if pid not in without:
                waiting.append(pid)
                if not dead:
                    found.append((pid, group))
    return found


def send_signal(pids: list[tuple[int, int]], number: int) -> None:
    """Send a signal to each process of a `tree`."""
    for pid, _ in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


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


def start_of(pid: int) -> int:
    """Give the time at which a process started, in the kernel's ticks since boot; with it a pid is one process."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - pathlib is not loaded here
        return int(file.read(1024).rpartition(b")")[2].split()[19])
