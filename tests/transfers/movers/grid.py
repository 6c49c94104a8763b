"""An archive here, and a grid server to which ``gfal:`` moves."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from datahub.archive import Product
from datahub.archive.local import LocalArchive
from datahub.kit.clock import HubClock
from datahub.kit.threads import InlinePool
from datahub.transfers.movers import Checksum, CopiedFile, Delivery, Order
from datahub.transfers.movers.carriers import Carriers
from datahub.transfers.movers.gfal import COMMAND, GfalMover
from datahub.transfers.movers.proxies import Papers
from tests.files.trees import names_in
from tests.gridftp import Authority

__all__ = ["Grid", "Server", "content", "contents", "tree"]


class Server(Protocol):
    """A server of whatever kind."""

    def room(self, home: Path) -> Path:
        """Give a folder for one test."""
        ...

    def url(self, path: Path | str) -> str:
        """Give the URL of a path in it."""
        ...


@dataclass
class Grid:
    """A server, a folder of it for each test, an archive here, and movers with whatever credentials."""

    authority: Authority
    server: Server
    proxy: Path
    reactor: Any
    home: Path
    papers: Papers | None = None
    attempts: Iterator[int] = field(default_factory=lambda: count(1))
    movers: list[Carriers] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.archive_root = self.home / "archive"
        self.archive_root.mkdir()
        self.deliveries = self.server.room(self.home) / "deliveries"
        self.archive = LocalArchive(self.archive_root, InlinePool())
        self.moved: list[int] = []
        self.filed: list[CopiedFile] = []
        self.mover = self.moving(self.papers or Papers(proxy=self.proxy, ca=self.authority.folder))

    def moving(self, papers: Papers, token: str | None = None) -> GfalMover:
        """Give a mover with credentials."""
        carriers = Carriers(COMMAND, papers.environment(os.environ, token), papers.stamp, self.reactor)
        self.movers.append(carriers)
        clock = HubClock()
        clock.set(int(time.time() * 1000), 0)
        return GfalMover(carriers, InlinePool(), self.archive, papers, clock)

    def put(self, name: str, content: bytes = b"data") -> Path:
        """Put a file into the archive."""
        path = self.archive_root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def order(self, *, to: str = "alice", checksum: Checksum | None = None, overwrite: bool = False) -> Order:
        """Order a delivery; all are of one transfer."""
        where = self.server.url(self.deliveries / to)
        return Order("f7d2", f"7.{next(self.attempts)}", where, overwrite, checksum)

    async def deliver(self, product: str | Product, order: Order | None = None) -> Delivery:
        """Copy and publish."""
        order = order or self.order()
        found = await self.archive.locate(product) if isinstance(product, str) else product
        delivery = await self.mover.copy(order, found, self.moved.append, self.filed.append)
        await self.mover.publish(order, delivery)
        return delivery

    def delivered(self, folder: str = "alice") -> list[str]:
        """List what lies in a folder of the deliveries, temporary names too."""
        path = self.deliveries / folder
        return names_in(path) if path.exists() else []


def content(size: int) -> bytes:
    """Give bytes that look like chance."""
    return random.Random(size).randbytes(size)


def tree(grid: Grid, files: int) -> dict[str, bytes]:
    """Put a product of folders into the archive, with names that need care; its files."""
    odd = ["a b", "p%20q", "h#x", "q?y", "ü", 'quo"te', "back\\s", "[b]", "plus+&;=", "~t", "st*r", "-dash", "'"]
    names = [f"{number % 3}/{name}" for number, name in enumerate(odd)] + [f"n/{n:03}" for n in range(files)]
    found = {name: content(number * 100) for number, name in enumerate(names)}
    for name, data in found.items():
        grid.put(f"tree/{name}", data)
    (grid.archive_root / "tree" / "empty").mkdir()
    return found


def contents(place: Path) -> dict[str, bytes]:
    """Give all files of a tree."""
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
