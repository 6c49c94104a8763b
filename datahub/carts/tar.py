"""The layout of a tar that is never written: every offset follows from names, sizes and times (POSIX.1-2001, pax)."""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["END", "Layout", "header", "padding", "top_of"]

BLOCK: Final = 512
RECORD: Final = 10240
NAME, PREFIX = 100, 155
LARGEST: Final = 0o77777777777
"""What eleven octal digits hold: the size of a file, and its time."""
NANO: Final = 10**9
OWNER: Final = b"ustar\x0000" + b"root".ljust(32, b"\0") * 2 + b"0000000\x000000000\x00"
LONGEST_TOP: Final = 200


def top_of(filename: str) -> str:
    """The folder that a tar called ``filename`` has all files in: the name without ".tar", as one tame segment."""
    name = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029/\\]", "_", filename.rpartition("/")[2].replace(".tar", ""))
    tame = name.encode("utf-8", "replace")[:LONGEST_TOP].decode("utf-8", "ignore").strip()
    return "data" if tame.strip(".") == "" else tame


def header(name: str, size: int, mtime_ns: int) -> bytes:
    """The header of a regular file: one block of ustar, after a pax header where ustar can't tell it all."""
    raw = name.encode("utf-8", "surrogateescape")
    mtime = mtime_ns // NANO
    split = _split(raw)
    records = {}
    if split is None:
        records["path"] = raw
        split = b"", raw.decode("utf-8", "replace").encode("ascii", "replace")[:NAME]
    if size > LARGEST:
        records["size"] = b"%d" % size
    if not 0 <= mtime <= LARGEST:
        records["mtime"] = b"%d" % mtime
    told = _block(*split, size if size <= LARGEST else 0, min(max(mtime, 0), LARGEST), b"0")
    if not records:
        return told
    body = b"".join(_record(key.encode(), value) for key, value in records.items())
    return _block(b"", b"././@PaxHeader", len(body), 0, b"x") + body + padding(len(body)) + told


def _header_length(name: str, size: int, mtime_ns: int) -> int:
    """The length of `header`, which costs ten times as much to make."""
    if len(name) <= NAME and name.isascii() and size <= LARGEST and 0 <= mtime_ns <= LARGEST * NANO:
        return BLOCK
    return len(header(name, size, mtime_ns))


def _split(raw: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name as ustar has them; None if it can't."""
    if not raw.isascii():
        return None
    if len(raw) <= NAME:
        return b"", raw
    # The name gets as much as it can: the first slash that leaves it short enough.
    at = raw.find(b"/", len(raw) - NAME - 1)
    if at <= 0 or at > PREFIX or at == len(raw) - 1:
        return None
    return raw[:at], raw[at + 1 :]


def _block(prefix: bytes, name: bytes, size: int, mtime: int, kind: bytes) -> bytes:
    told = b"%s0000644\x000000000\x000000000\x00%011o\x00%011o\x00        %s%s" % (
        name.ljust(NAME, b"\0"),
        size,
        mtime,
        kind,
        bytes(100)
        + b"ustar\x0000"
        + b"root".ljust(32, b"\0") * 2
        + b"0000000\x000000000\x00"
        + prefix.ljust(167, b"\0"),
    )
    return b"%s%06o\x00 %s" % (told[:148], sum(told), told[156:])


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record, whose length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest
    while length != rest + len(str(length)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def padding(size: int) -> bytes:
    """The zeros that fill the last block of ``size`` bytes."""
    return bytes(-size % BLOCK)


END: Final = bytes(2 * BLOCK)


@dataclass
class Layout:
    """Where each member of a tar begins; ``tag`` is the strong entity tag, in its quotes.

    Members are added in order; ``numbers`` tells which file of the cart each is. ``identity`` stands for the content of
    all of them.
    """

    top: str
    identity: str
    size: int = 0
    numbers: array[int] = field(default_factory=lambda: array("L"))
    starts: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, number: int, path: str, size: int, mtime_ns: int) -> None:
        """Put the next file at the end."""
        self.numbers.append(number)
        self.starts.append(self.size)
        self.size += _header_length(f"{self.top}/{path}", size, mtime_ns) + size + -size % BLOCK

    def add_all(self, files: Iterable[tuple[int, str, int, int]]) -> None:
        """Put files at the end: number, path, size and time of each."""
        for each in files:
            self.add(*each)

    @property
    def end(self) -> bytes:
        """What stands behind the last member: two empty blocks, and zeros up to a whole record."""
        return END + bytes(-(self.size + len(END)) % RECORD)

    @property
    def length(self) -> int:
        """The bytes of the whole tar."""
        return self.size + len(self.end)

    @property
    def tag(self) -> str:
        """What changes if any byte of the tar does."""
        told = hashlib.sha256(f"{self.identity} {self.length} ".encode() + self.top.encode("utf-8", "surrogatepass"))
        return f'"{told.hexdigest()[:40]}"'

    def member_at(self, offset: int) -> int:
        """The index of the member that ``offset`` lies in; behind the last one, how many there are."""
        return len(self.starts) if offset >= self.size else bisect_right(self.starts, offset) - 1

    @property
    def weight(self) -> int:
        """The bytes it takes in memory, about."""
        return 500 + 16 * len(self.starts)
