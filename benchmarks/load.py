"""Cheap clients for the benchmarks: many keep-alive connections in one process, driven by epoll, little else."""

from __future__ import annotations

import json
import multiprocessing
import select
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import repeat
from multiprocessing.connection import Connection

__all__ = ["deliver_all", "rate"]

HEAD = (
    "POST /submitTransfer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)
TAKEN = b"HTTP/1.1 202"
END = b"}\n"
"""How every answer of the hub ends; none of those asked for has it elsewhere."""


def submission(product: str, destination: str) -> bytes:
    """Give one request, as bytes on the wire."""
    body = json.dumps({"product_id": product, "destination_path": destination})
    return (HEAD.format(len(body)) + body).encode()


def rate(port: int, clients: int, seconds: float, request: bytes) -> float:
    """Give the answers a second that ``clients`` connections get in another process, each asking one at a time."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_load, args=(theirs, port, clients, seconds, request))
    child.start()
    theirs.close()  # so that a child that fails ends the wait for its report
    count, took = ours.recv()
    child.join()
    return float(count / took)


def deliver_all(port: int, clients: int, requests: Iterable[bytes]) -> int:
    """Send all ``requests`` over ``clients`` connections; how many were taken."""
    return _ask(port, clients, iter(requests))


def _load(report: Connection, port: int, clients: int, seconds: float, request: bytes) -> None:
    begun = time.perf_counter()
    count = _ask(port, clients, _for_a_time(request, begun + seconds))
    report.send((count, time.perf_counter() - begun))


def _for_a_time(request: bytes, until: float) -> Iterator[bytes]:
    for each in repeat(request):
        if time.perf_counter() > until:
            return
        yield each


def _ask(port: int, clients: int, requests: Iterator[bytes]) -> int:
    connections: dict[int, socket.socket] = {}
    ready = select.epoll()
    # The numbers first: the other way round the last request taken would be lost.
    for _, request in zip(range(clients), requests, strict=False):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[connection.fileno()] = connection
        ready.register(connection, select.EPOLLIN)
        connection.sendall(request)
    return _converse(connections, ready, requests)


def _converse(connections: dict[int, socket.socket], ready: select.epoll, requests: Iterator[bytes]) -> int:
    taken = 0
    while connections:
        for number, _ in ready.poll():
            connection = connections[number]
            answer = connection.recv(65536)
            # An answer of a few hundred bytes comes in one piece.
            if not (answer.startswith(TAKEN) and answer.endswith(END)):
                sys.exit(f"not taken: {answer!r}")
            taken += 1
            request = next(requests, None)
            if request is None:
                connections.pop(number).close()
            else:
                connection.sendall(request)
    return taken
