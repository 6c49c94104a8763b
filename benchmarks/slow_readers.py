"""Callers who take an answer slowly, many of them, in a process of their own."""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection

__all__ = ["slow_readers"]

STEP = 0.1
"""Seconds between two reads of a caller."""
BUFFER = 16 * 1024
"""What the kernel may take in advance for each: or it would have read some megabytes before the caller began."""


@contextmanager
def slow_readers(port: int, request: bytes, count: int, rate: int, *, tls: bool) -> Iterator[Callable[[], str]]:
    """Let ``count`` callers send ``request`` and read ``rate`` bytes a second each, as long as the block runs.

    The block begins when all have their answer, and gets what says, at its end, how that went.
    """
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_read, args=(theirs, port, request, count, rate, tls))
    child.start()
    theirs.close()  # so that a child that fails ends the wait for its report

    def ended() -> str:
        ours.send("end")
        return str(ours.recv())

    try:
        ours.recv()
        yield ended
    finally:
        ours.close()
        child.terminate()
        child.join()


def _read(report: Connection, port: int, request: bytes, count: int, rate: int, tls: bool) -> None:
    with ExitStack() as stack:
        callers = [stack.enter_context(_connected(port, request, tls)) for _ in range(count)]
        report.send("begun")
        begun, taken, broken = time.perf_counter(), 0, set()
        next_step = begun
        while not report.poll(max(0.0, next_step - time.perf_counter())):
            next_step += STEP
            for each in callers:
                with suppress(BlockingIOError, ssl.SSLWantReadError):
                    data = each.recv(int(rate * STEP))
                    taken += len(data)
                    if not data:
                        broken.add(each)
        each_second = taken / (time.perf_counter() - begun) / count / 1000
        report.send(f"{each_second:.1f} kB/s each, {len(broken)} broken off")


def _connected(port: int, request: bytes, tls: bool) -> socket.socket:
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    caller.settimeout(30)
    caller.connect(("127.0.0.1", port))
    if tls:
        caller = _context().wrap_socket(caller)
    caller.sendall(request)
    if not caller.recv(12).endswith(b" 200"):
        raise SystemExit("not answered with 200")
    caller.setblocking(False)
    return caller


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
