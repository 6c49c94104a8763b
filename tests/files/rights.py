"""Doing something without root's rights, also where the tests run as root."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from threading import Thread

__all__ = ["refused"]

_VERSION_3 = 0x20080522  # of the kernel's capabilities, see capset(2)


def refused(work: Callable[[], object]) -> Exception | None:
    """Run ``work`` in a thread that may not pass over permissions, and give what it raised."""
    raised: list[Exception | None] = [None]

    def attempt() -> None:
        _drop_capabilities()
        try:
            work()
        except Exception as error:
            raised[0] = error

    thread = Thread(target=attempt)
    thread.start()
    thread.join()
    return raised[0]


def _drop_capabilities() -> None:
    """Take all from this thread; each thread has its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capset(struct.pack("Ii", _VERSION_3, 0), bytes(24)) == 0
