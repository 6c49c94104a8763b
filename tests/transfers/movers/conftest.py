"""An archive and a folder of deliveries, with a mover between them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from datahub.archive import Product
from datahub.archive.local import LocalArchive
from datahub.files import url_of_path
from datahub.kit.threads import InlinePool
from datahub.transfers.movers import Checksum, Delivery, Order
from datahub.transfers.movers.local import LocalMover
from tests.files.trees import names_in


@dataclass
class Place:
    """Where the tests deliver: real folders, a real mover, and orders for it."""

    archive_root: Path
    root: Path
    seen: list[int] = field(default_factory=list)
    products: dict[str, Product] = field(default_factory=dict)
    attempts: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.archive_root.mkdir()
        self.root.mkdir()
        self.archive = LocalArchive(self.archive_root, InlinePool())
        self.mover = LocalMover(self.root, InlinePool(), self.archive)

    def put(self, name: str, content: bytes = b"data") -> Path:
        """Put a file into the archive."""
        path = self.archive_root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    async def order(
        self,
        product_id: str = "005",
        *,
        to: str = "alice",
        checksum: Checksum | None = None,
        overwrite: bool = False,
        transfer: str = "",
    ) -> Order:
        """Order a product of the archive; each order is another attempt."""
        attempt = f"7.{next(self.attempts)}"
        self.products[attempt] = await self.archive.locate(product_id)
        return Order(transfer or str(uuid4()), attempt, url_of_path(f"{self.root}/{to}"), overwrite, checksum)

    async def copy(self, order: Order) -> Delivery:
        """Copy, noting the progress."""
        return await self.mover.copy(order, self.products[order.attempt], self.seen.append)

    async def deliver(self, order: Order) -> Delivery:
        """Copy and publish."""
        delivery = await self.copy(order)
        await self.mover.publish(order, delivery)
        return delivery

    def delivered(self, folder: str = "alice") -> list[str]:
        """List what lies in a folder of the deliveries, temporary names too."""
        return names_in(self.root / folder)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An archive and deliveries on one file system."""
    return Place(tmp_path / "archive", tmp_path / "deliveries")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Place]]:
    """Make a place whose deliveries are a small file system of their own."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    if not shutil.which("mount"):
        pytest.skip("there is no mount command")

    def mount(options: str) -> Place:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", mounted], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a small file system can't be mounted here: {done.stderr.decode().strip()}")
        return Place(tmp_path / "archive", mounted / "deliveries")

    yield mount
    subprocess.run(["umount", mounted], capture_output=True, check=False)
