"""The broker's queues of whole daemons, which have the same names in each test: one test at a time uses them."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pika

__all__ = ["empty_queues"]


@contextmanager
def empty_queues(url: str, lanes: Iterable[str]) -> Iterator[None]:
    """Wait until no other test's daemons are at the broker; there are no queues of ``lanes`` before and after."""
    names = [f"datahub.{lane}" for lane in lanes]
    with (Path(tempfile.gettempdir()) / "datahub-tests-broker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _delete(url, names)
        yield
        _delete(url, names)


def _delete(url: str, names: Iterable[str]) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    for name in names:
        connection.channel().queue_delete(name)
    connection.close()
