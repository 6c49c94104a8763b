"""The /files endpoints of a Mesos agent over folders of this machine, as `spec` calls them: browse, read, download."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "Failed", "Files", "mode_text", "type_of"]

PAGE = 16 * 4096
"""The most that one read gives, whatever is asked for."""

TYPES = {
    ".txt": "text/plain",
    ".html": "text/html",
    ".gif": "image/gif",
    ".png": "image/png",
    ".css": "text/css",
    ".sh": "application/x-sh",
    ".xml": "text/xml",
}
KINDS = {
    stat.S_IFDIR: "d",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFLNK: "l",
    stat.S_IFSOCK: "s",
}
SHORT = {8: b"\\b", 9: b"\\t", 10: b"\\n", 12: b"\\f", 13: b"\\r", 34: b'\\"', 47: b"\\/", 92: b"\\\\"}
ESCAPES = {bytes([code]): SHORT.get(code, b"\\u%04x" % code) for code in (*range(32), 34, 47, 92, 127)}
ESCAPED = re.compile(rb'[\x00-\x1f"/\\\x7f]')


class Failed(Exception):
    """An answer that is no success: its status and its body, as they go out."""

    def __init__(self, status: int, body: str = "") -> None:
        super().__init__(body)
        self.status = status
        self.body = body


@dataclass
class Files:
    """What an agent has attached: virtual paths, and the folders or files behind them."""

    attached: dict[str, Path] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)

    def attach(self, virtual: str, real: Path) -> None:
        """Let ``real`` be seen as ``virtual``."""
        self.attached[virtual.rstrip("/")] = real

    def resolve(self, path: str) -> Path:
        """The real file behind ``path``; raises `Failed` 404 for what is not there, 400 for what lies outside."""
        parts = path.rstrip("/")
        prefix = max((each for each in self.attached if (parts + "/").startswith(each + "/")), key=len, default=None)
        if prefix is None:
            raise Failed(404)
        base = self.attached[prefix]
        found = Path(os.path.join(base, parts[len(prefix) :].lstrip("/")))  # noqa: PTH118 - Path would forget the dots
        if not found.exists():
            raise Failed(404)
        real, root = found.resolve(), base.resolve()
        if real != root and root not in real.parents:
            raise Failed(400, f"'{real}' is inaccessible.\n")
        return real

    def check(self, query: Mapping[str, str], refused: str = "") -> str:
        """The path that a query names; raises `Failed` 400 without one, 403 if it may not be seen."""
        path = query.get("path", "")
        if not path:
            raise Failed(400, "Expecting 'path=value' in query.\n")
        if any((path + "/").startswith(each + "/") for each in self.denied):
            raise Failed(403, refused)
        return path

    def browse(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """What is in a folder; a file, or a folder that can't be read, has nothing in it."""
        path = self.check(query)
        real = self.resolve(path)
        try:
            names = sorted(each.name for each in real.iterdir()) if real.is_dir() else []
        except PermissionError:
            names = []
        return [_entry(path.rstrip("/") + "/" + name, real / name) for name in names]

    def read(self, query: Mapping[str, str]) -> bytes:
        """A page of a file as JSON, its bytes put in as they are."""
        path = self.check(query)
        offset, length = _number(query, "offset"), _number(query, "length")
        real = self.resolve(path)
        if real.is_dir():
            raise Failed(400, "Cannot read a directory.\n")
        size = real.stat().st_size
        if offset == -1:
            return _page(b"", size)
        if offset >= size:
            return _page(b"", offset)
        wanted = PAGE if length == -1 else min(length, PAGE)
        try:
            with real.open("rb") as file:
                file.seek(offset)
                return _page(file.read(wanted), offset)
        except OSError as error:
            raise Failed(500, f"Failed to open file at '{real}': {error.strerror}.\n") from None

    def download(self, query: Mapping[str, str]) -> Path:
        """The file that is to be sent whole."""
        path = self.check(query, "403 Forbidden.")
        try:
            real = self.resolve(path)
        except Failed as failed:
            raise Failed(failed.status, failed.body or "404 Not Found.") from None
        if real.is_dir():
            raise Failed(400, "Cannot download a directory.\n")
        if not os.access(real, os.R_OK) or not stat.S_IMODE(real.stat().st_mode) & 0o444:
            raise Failed(500, "500 Internal Server Error.")
        return real


def type_of(path: Path) -> str:
    """The Content-Type that Mesos gives a file, by its name alone."""
    return TYPES.get(path.suffix, "application/octet-stream")


def mode_text(mode: int) -> str:
    """The mode as ``ls -l`` shows it."""
    rights = "".join(
        letter if mode & bit else "-"
        for letter, bit in zip("rwxrwxrwx", (1 << number for number in range(8, -1, -1)), strict=True)
    )
    return KINDS.get(stat.S_IFMT(mode), "-") + rights


def _entry(path: str, real: Path) -> dict[str, Any]:
    found = real.lstat()
    return {
        "gid": _name(grp.getgrgid, found.st_gid),
        "mode": mode_text(found.st_mode),
        "mtime": int(found.st_mtime),
        "nlink": found.st_nlink,
        "path": path,
        "size": found.st_size,
        "uid": _name(pwd.getpwuid, found.st_uid),
    }


def _name(look_up: Any, number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def _number(query: Mapping[str, str], name: str) -> int:
    value = query.get(name)
    if value is None:
        return -1
    try:
        number = int(value)
    except ValueError:
        reason = f"Failed to convert '{value}' to number."
        raise Failed(400, f"Failed to parse {name}: {reason}\n") from None
    if number < -1:
        raise Failed(400, f"Negative {name} provided: {number}.\n")
    return number


def _page(data: bytes, offset: int) -> bytes:
    escaped = ESCAPED.sub(lambda found: ESCAPES[found[0]], data)
    return b'{"data":"%s","offset":%d}' % (escaped, offset)
