"""Digests that a server of the grid can be compared by. Standard library only."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

__all__ = ["Adler32", "manifest", "new_digest"]


class Adler32:
    """Adler-32, with the methods of hashlib's."""

    def __init__(self) -> None:
        self._value = zlib.adler32(b"")

    def update(self, data: bytes) -> None:
        """Take in the next bytes."""
        self._value = zlib.adler32(data, self._value)

    def hexdigest(self) -> str:
        """Give the digest of all bytes so far."""
        return f"{self._value:08x}"


def new_digest(algorithm: str) -> Any:
    """Begin a digest."""
    return Adler32() if algorithm == "adler32" else hashlib.new(algorithm, usedforsecurity=False)


def manifest(sums: dict[str, str]) -> str:
    """The SHA-256 over a line ``adler32  ./path`` for each file, in the order of their paths' bytes."""
    whole = hashlib.sha256()
    for path in sorted(sums, key=str.encode):
        whole.update(f"{sums[path]}  ./{path}\n".encode())
    return whole.hexdigest()
