"""Who carries a product to its destination: the port every kind of mover implements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from datahub.archive import Product
from datahub.errors import PassingFault
from datahub.files import Checksum

__all__ = [
    "Checksum",
    "CopiedFile",
    "Delivery",
    "DeliveryLost",
    "Destination",
    "Filed",
    "Leftover",
    "Mover",
    "Order",
    "Progress",
    "Remote",
    "nobody",
]

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file of a product whose copy begins; with ``checksum`` ("sha256" or "adler32") it has ended, and is verified.

    ``path`` is relative to the product, its name for one that is a single file; ``size`` in bytes.
    """

    path: str
    size: int
    checksum: Checksum | None = None


Filed = Callable[[CopiedFile], None]


def nobody(_: CopiedFile) -> None:
    """Nobody wants to know of single files."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """What lies under a temporary name of ``transfer``, in a mover's own words for the place."""

    transfer: str
    place: str


@dataclass(frozen=True, slots=True)
class Order:
    """What one attempt of a transfer is to do with a product.

    ``attempt`` is unique among all attempts of all transfers, such as "17.2"; ``destination`` is the URL as
    submitted: a folder in which the product is deposited under its own name.
    """

    transfer: str
    attempt: str
    destination: str
    overwrite: bool
    checksum: Checksum | None


@dataclass(frozen=True, slots=True)
class Remote(Product):
    """What a stager has put on another host at ``url``: a file or a folder, which its mover finds out."""

    url: str


class Delivery(msgspec.Struct, frozen=True):
    """What a copy has left at the destination: kept in the transfer's record before it gets its final name.

    ``final`` is the URL at which it will be found, ``temporary`` its name until then; ``device`` and ``inode``
    recognise it under either name, and are 0 on other hosts; ``files`` and ``size`` (bytes) count what was copied;
    ``checksums`` are hexadecimal digits by algorithm: "sha256" or "adler32" of a file, "manifest-sha256" or
    "manifest-adler32" of a folder.
    """

    final: str
    temporary: str
    device: int
    inode: int
    files: int
    size: int
    checksums: dict[str, str]

    @property
    def is_directory(self) -> bool:
        """Whether a whole folder is delivered."""
        return any(name.startswith("manifest-") for name in self.checksums)


class DeliveryLost(PassingFault):
    """What was copied has gone before it got its final name: it is to be copied again."""

    code = "work.delivery_lost"


class Destination(Protocol):
    """Where something can be moved to, by whomever."""

    def check(self, destination: str) -> None:
        """Raise `InvalidRequest` (field ``destination_path``) for a URL to which nothing can ever be moved."""


class Mover(Destination, Protocol):
    """Copies, then publishes; each may be called again after a crash at any point.

    Raises `PassingFault` and `FinalFault` with texts for people, and `CancelledError` only when nothing of the
    work goes on any more.
    """

    fetches: bool
    """Whether it takes a `Remote` product; who does not reads all of it on this host."""

    def claims(self, order: Order, name: str) -> str | None:
        """What no other transfer may be delivered to before this one, of a product called ``name``, has ended.

        None where the destination itself lets nobody replace what another has just put there.
        """

    async def copy(self, order: Order, product: Product, progress: Progress, filed: Filed = nobody) -> Delivery:
        """Copy the product under a temporary name of the attempt: verified, and safe from a power cut.

        ``progress`` is told the number of bytes of each step, ``filed`` each file, from any thread. A failed
        or cancelled copy leaves nothing behind.
        """
        ...

    async def publish(self, order: Order, delivery: Delivery) -> None:
        """Give what was copied its final name, or recognise that it has it; raises `DeliveryLost`."""

    async def is_published(self, order: Order, delivery: Delivery) -> bool:
        """Whether what was copied has its final name already."""
        ...

    async def discard(self, order: Order) -> None:
        """Remove whatever any attempt of this transfer has left under a temporary name at the destination."""

    async def leftovers(self, before: float) -> list[Leftover]:
        """Look for what lies under temporary names, anywhere, untouched since ``before`` (seconds since 1970)."""
        ...

    async def remove(self, leftover: Leftover) -> None:
        """Remove what `leftovers` found."""
