"""Events a second that a hundred followers of /events get, and what following costs those who submit."""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread

from load import rate, submission
from measuring import Hub, Process, alternate, ratio, room, show, spread, title

FOLLOWERS = 100
CLIENTS = 8
SECONDS = 3.0
ROUNDS = 3
FOLLOW = b"GET /events?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"


def main(followers: int = FOLLOWERS, rounds: int = ROUNDS) -> None:
    """Measure and print the table."""
    with room() as folder:
        hub = Hub(folder / "hub", workers=())
        request = submission("a/product", hub.deliveries.as_uri())
        with hub.running() as process:
            rate(process.port, CLIENTS, 1.0, request)
            got: list[float] = []
            measures = {
                "alone": partial(rate, process.port, CLIENTS, SECONDS, request),
                "followed": partial(followed, process, request, followers, got),
            }
            found = alternate(rounds, measures)
    title(f"{CLIENTS} clients submit, {followers} follow", "a second", "of nobody following")
    show("submissions, nobody follows", spread(found["alone"], 0), "1")
    show(
        "submissions, all are followed", spread(found["followed"], 0), spread(ratio(found["followed"], found["alone"]))
    )
    show("events delivered to all followers", spread(got, 0), "")


def followed(process: Process, request: bytes, followers: int, got: list[float]) -> float:
    """Submissions a second while they are followed; what the followers get a second goes into ``got``."""
    with following(process.port, followers) as counts:
        before = sum(counts)
        found = rate(process.port, CLIENTS, SECONDS, request)
        got.append((sum(counts) - before) / SECONDS)
    return found


@contextmanager
def following(port: int, count: int) -> Iterator[list[int]]:
    """Follow by ``count`` connections, whose lines are counted in a thread."""
    connections = {}
    ready = select.epoll()
    for number in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(FOLLOW)
        if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
            sys.exit("not followed")
        connections[connection.fileno()] = number, connection
        ready.register(connection, select.EPOLLIN)
    counts, ended = [0] * count, Event()

    def read() -> None:
        while not ended.is_set():
            for descriptor, _ in ready.poll(0.1):
                number, connection = connections[descriptor]
                counts[number] += connection.recv(1 << 20).count(b'"position"')

    thread = Thread(target=read)
    thread.start()
    try:
        yield counts
    finally:
        ended.set()
        thread.join()
        for _, connection in connections.values():
            connection.close()


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:2]))
