"""Where products come from: the port every kind of archive implements."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from datahub.errors import InvalidRequest, PassingFault

__all__ = ["Archive", "Entry", "Facts", "Faulty", "Product", "check_product_id", "is_encodable"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of a product as it was when listed; ``size`` in bytes, ``mtime_ns`` since 1970.

    ``path`` is relative to the product, "" for a product that is a single file; bytes that are not UTF-8
    are surrogates, as `os.fsdecode` makes them.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int
    device: int
    is_directory: bool


@dataclass(frozen=True, slots=True)
class Product:
    """What an id stands for: ``root`` is the real path of the file or folder, ``name`` the id's last component.

    ``files`` and ``size`` (bytes) count all regular files in it.
    """

    id: str
    name: str
    root: Path
    is_directory: bool
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file of this host was when it was taken up, so that any change of it can be noticed.

    ``place`` is its real path. The change time is the kernel's own: nobody can put it back, as a modification time.
    ``device`` is for people: each host numbers its network file systems anew, whenever it mounts them.
    """

    place: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, place: str, found: os.stat_result) -> Facts:
        """Give the facts of what ``found`` was told of."""
        return cls(place, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def hold(self, found: os.stat_result) -> bool:
        """Whether ``found`` is still the same file, unchanged, as any host that shares it sees it."""
        return replace(Facts.of(self.place, found), device=self.device) == self


class Faulty(PassingFault):
    """The archive is there, but what it gives of a file can't be right, or be read: a few tries, not days of them."""


class Archive(Protocol):
    """Finds products and reads them; nothing outside of it is ever read."""

    async def locate(self, product_id: str) -> Product:
        """Find a product that can be read as a whole.

        Raises `InvalidRequest` for an id that can't be one, `FinalFault` if it is not there or can't be
        delivered, `PassingFault` if the archive is away.
        """
        ...

    def walk(self, product: Product) -> Iterator[Entry]:
        """List a product lazily: its files in the order of their paths' bytes, each folder before what is in it.

        Blocking, so it is called in a thread; the product's own folder is not listed. Raises as `locate` does.
        """
        ...

    def open(self, product: Product, entry: Entry) -> int:
        """Give a file descriptor for reading, proven to be a regular file inside the archive.

        Blocking, so it is called in a thread. Raises as `locate` does.
        """
        ...


def check_product_id(product_id: str) -> None:
    """Raise `InvalidRequest` (field ``product_id``) unless it is a relative path without detours."""
    trouble = _trouble(product_id)
    if trouble:
        raise InvalidRequest(
            f"product_id {product_id!r} {trouble}: give a relative path such as '005' or '2026/005'",
            field="product_id",
        )


def _trouble(product_id: str) -> str:
    parts = product_id.split("/")
    if not product_id:
        return "is empty"
    if product_id.startswith("/"):
        return "is an absolute path"
    if "\0" in product_id:
        return "holds a NUL"
    if "" in parts:
        return "has an empty component"
    if "." in parts or ".." in parts:
        return "has a '.' or '..' component"
    return "" if is_encodable(product_id) else "holds a character that no path can hold"


def is_encodable(text: str) -> bool:
    """Whether ``text`` can be written to a path at all; lone surrogates that stand for no byte can't."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
