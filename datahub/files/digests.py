"""Digests of bytes on disk: every algorithm behind one interface."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Event
from types import MappingProxyType
from typing import Protocol

from datahub.files.stopping import check

__all__ = ["ALGORITHMS", "Checksum", "Digest", "Manifest", "digest_of", "new_digest"]

# Small enough for the processor's second cache, large enough that hashlib's release of the GIL costs nothing.
BLOCK = 256 * 1024


class Digest(Protocol):
    """A digest under way."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in the next bytes."""

    def hexdigest(self) -> str:
        """Give the digest of all bytes so far, in lower-case hexadecimal digits."""
        ...


class Adler32:
    """Adler-32 (RFC 1950) as eight hexadecimal digits, the way grid tools write it."""

    def __init__(self) -> None:
        self._value = zlib.adler32(b"")

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in the next bytes."""
        self._value = zlib.adler32(data, self._value)

    def hexdigest(self) -> str:
        """Give the checksum so far."""
        return f"{self._value:08x}"


_MAKERS: Mapping[str, Callable[[], Digest]] = MappingProxyType(
    {
        "sha256": hashlib.sha256,
        "md5": partial(hashlib.md5, usedforsecurity=False),
        "sha1": partial(hashlib.sha1, usedforsecurity=False),
        "sha512": hashlib.sha512,
        "adler32": Adler32,
    }
)
ALGORITHMS = tuple(_MAKERS)


def new_digest(algorithm: str) -> Digest:
    """Begin a digest of one of `ALGORITHMS`."""
    return _MAKERS[algorithm]()


def digest_of(file: int, algorithm: str, stop: Event) -> str:
    """Read the open ``file`` from its beginning to its end and give its digest; raises `Stopped`, `OSError`."""
    digest, buffer, at = new_digest(algorithm), memoryview(bytearray(BLOCK)), 0
    while count := os.preadv(file, [buffer], at):
        check(stop)
        digest.update(buffer[:count])
        at += count
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a file's digest must be: an algorithm of `ALGORITHMS` and lower-case hexadecimal digits."""

    algorithm: str
    value: str


class Manifest:
    """The digest of a tree: SHA-256 over what `sha256sum` prints for its files, in the order of their paths' bytes.

    ``find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum`` prints the same.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, path: str, sha256: str) -> None:
        """Take in the next file: its path relative to the tree's top, and its digest."""
        raw = b"./" + os.fsencode(path)
        # As coreutils 9 does: a name that would break its line is escaped, and a backslash before the line says so.
        escaped = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        mark = b"\\" if escaped != raw else b""
        self._digest.update(mark + sha256.encode() + b"  " + escaped + b"\n")

    def hexdigest(self) -> str:
        """Give the digest of the lines so far."""
        return self._digest.hexdigest()
