"""Copying under a temporary name, each file verified. Standard library and gfal2 only."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter
from typing import Any
from urllib.parse import quote

from datahub.transfers.grid.digests import manifest, new_digest
from datahub.transfers.grid.server import BLOCK, MISSING, PATIENCE, WEB, FaultError, Grid, Line, time_for

__all__ = ["Copy", "Order", "names", "refuse_existing"]

Order = dict[str, Any]

CUTTING = ("root:", *WEB)
"""Where the server may be XRootD, which takes a '?' in a name for its end, however it is written."""

MANY = 8
"""From so many files on globus-url-copy is quicker, far away by far: it does not wait for the end of one file."""


SINGLY = 60
"""Seconds for each file that is moved by itself, on the average: a dozen answers of a server far away."""

DYING_WITH_US = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", 'test $PPID = "$0" && exec "$@"']
"""Before a number of ours and a command: it outlives us as little as we outlive the hub.

The shell is for who was killed before the command was to hear of it: then its parent is another one.
"""


class Here:
    """A product of this host: each file must still be the one that the hub has found."""

    def __init__(self, order: Order, line: Line) -> None:
        self._root = order["root"]
        self._line = line
        self.checked: dict[str, Order] = {entry["path"]: entry for entry in order["entries"]}
        """All that the hub has said of files, by path."""

    def url(self, path: str) -> str:
        """The URL for globus-url-copy."""
        return "file://" + quote(os.fsencode(self._path(path)))

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextmanager
    def opened(self, path: str, entry: Order) -> Iterator[int]:
        """Open a file for reading; at the end it must be as it was."""
        file = os.open(self._path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._expect(file, path, entry)
            yield file
            self._expect(file, path, entry)
        finally:
            os.close(file)

    def _expect(self, file: int, path: str, entry: Order) -> None:
        found = os.fstat(file)
        seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if seen != (entry["device"], entry["inode"], entry["size"], entry["mtime_ns"]):
            raise FaultError(f"{path or self._root!r} changed while it was moved", "source", kind="changed")

    def digest(self, file: int, algorithm: str) -> str:
        """Read an open file from its beginning."""
        digest, at = new_digest(algorithm), 0
        while block := os.pread(file, BLOCK, at):
            digest.update(block)
            at += len(block)
            if not at % (256 * BLOCK):
                self._line.say(patience=PATIENCE)
        return str(digest.hexdigest())


class Copy:
    """One copy under a temporary name, each file of it verified."""

    def __init__(self, grid: Grid, order: Order) -> None:
        self._grid = grid
        self._order = order
        self._target = f"{order['destination']}/{quote(order['temporary'])}"
        self._here = Here(order, grid.line) if order["root"] is not None else None
        self._entries: dict[str, Order] = {}
        self._is_folder = bool(order["folder"])
        self._sums: dict[str, str] = {}

    def run(self) -> Order:
        """Copy, and tell what was copied."""
        if self._here is None:
            self._grid.fetch_tokens(wanted=True)
        self._list()
        self._refuse_hopeless()
        files = {path: entry for path, entry in self._entries.items() if not entry["is_directory"]}
        size = sum(entry["size"] for entry in files.values())
        self._grid.make_folder(self._order["destination"])
        self._grid.remove(self._target)
        try:
            if self._is_folder:
                self._make_folders()
            bulk = self._in_bulk(files) if len(files) >= MANY else False
            end = time.monotonic() + time_for(2 * size, SINGLY * len(files))
            for path, entry in files.items():
                if time.monotonic() > end:
                    raise _too_slow(len(files), size)
                self._copy_file(path, entry, there=bulk)
        except BaseException:
            with suppress(FaultError):
                self._grid.remove(self._target)
            raise
        return {"files": len(files), "size": size, "folder": self._is_folder, "checksums": self._checksums()}

    def _list(self) -> None:
        if self._here:
            self._entries = self._here.checked
            return
        url = self._order["url"]
        found = self._grid.look(url, "source")
        if found is None:
            raise FaultError(f"{url} is not there", "source", errno.ENOENT)
        self._is_folder = stat.S_ISDIR(found.st_mode)
        for path, status in (
            sorted(self._grid.walk(url, "source"), key=itemgetter(0)) if self._is_folder else [("", found)]
        ):
            is_folder = stat.S_ISDIR(status.st_mode)
            self._entries[path] = {"size": 0 if is_folder else status.st_size, "is_directory": is_folder}

    def _refuse_hopeless(self) -> None:
        """Say before any byte is moved what would be said after."""
        if self._is_folder and self._order["checksum"]:
            raise FaultError("a checksum is that of a single file, and the product is a folder", "source", kind="never")
        cutting = self._order["destination"].startswith(CUTTING)
        for path in self._entries:
            if cutting and "?" in path:
                text = f"the name {path!r} has a '?', where XRootD servers cut it off: rename it"
                raise FaultError(text, "source", kind="never")
            # They end a command of FTP, or are no text at all.
            if any(not sign.isprintable() for sign in path):
                raise FaultError(f"the name {path!r} can't be moved by gfal2: rename it", "source", kind="never")
        refuse_existing(self._grid, self._order, self._is_folder)

    def _make_folders(self) -> None:
        self._grid.make_folder(self._target)
        for path, entry in self._entries.items():
            if entry["is_directory"]:
                self._grid.make_folder(self._there(path))

    def _there(self, path: str) -> str:
        return f"{self._target}/{quote(path)}" if path else self._target

    def _origin(self, path: str) -> str:
        if self._here:
            return self._here.url(path)
        url: str = self._order["url"]
        return f"{url}/{quote(path)}" if path else url

    def _in_bulk(self, files: dict[str, Order]) -> bool:
        """Let globus-url-copy move all files, if it can; what it has not moved well is moved singly after it."""
        program = shutil.which("globus-url-copy")
        schemes = {self._target.partition(":")[0], self._origin("").partition(":")[0]}
        if program is None or not schemes <= {"gsiftp", "file"}:
            return False
        command = [*DYING_WITH_US, str(os.getpid()), program, "-fast", "-pp", "-vb", "-st", str(PATIENCE)]
        with os.fdopen(os.memfd_create("datahub-names"), "w") as names:
            if self._here:
                names.writelines(f'"{self._origin(path)}" "{self._there(path)}"\n' for path in files)
                names.flush()
                command += ["-f", f"/proc/self/fd/{names.fileno()}"]
            else:
                # From server to server it does not wait only when it goes through the folders itself.
                command += ["-r", "-cd", f"{self._origin('')}/", f"{self._target}/"]
            pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": sys.stderr}
            with subprocess.Popen(command, pass_fds=[names.fileno()], **pipes) as running:
                try:
                    self._follow(running.stdout, files)
                except FaultError:
                    running.kill()
                    raise
        strangers = [path for path, _ in self._grid.walk(self._target) if path not in self._entries]
        if strangers:
            # It came to the product since that was listed, so it is not verified.
            raise FaultError(f"{strangers[0]!r} came to it while it was moved", "source", kind="changed")
        return True

    def _follow(self, output: Any, files: dict[str, Order]) -> None:
        """It names each file that it begins, and counts the bytes of a large one every five seconds."""
        sizes = [entry["size"] for entry in files.values()]
        rest, size, counted = iter(sizes), 0, 0
        end = time.monotonic() + time_for(sum(sizes), len(sizes))
        self._grid.line.say(patience=PATIENCE)
        while data := output.read1(BLOCK):
            if time.monotonic() > end:
                raise _too_slow(len(sizes), sum(sizes))
            for part in re.split(rb"[\r\n]", data):
                count = re.match(rb"\s*(\d+) bytes", part)
                if count and int(count[1]) > counted:
                    self._grid.line.say(moved=int(count[1]) - counted, patience=PATIENCE)
                    counted = int(count[1])
                elif count is None and part.startswith(b"  "):
                    self._grid.line.say(moved=max(0, size - counted), patience=PATIENCE)
                    size, counted = next(rest, 0), 0

    def _copy_file(self, path: str, entry: Order, *, there: bool) -> None:
        self._tell(path, entry, None)
        if self._here:
            with self._here.opened(path, entry) as file:
                self._verified(path, entry, f"file:///proc/self/fd/{file}", file, there=there)
        else:
            self._verified(path, entry, self._origin(path), None, there=there)
        self._tell(path, entry, self._sums[path])

    def _tell(self, path: str, entry: Order, adler: str | None) -> None:
        self._grid.line.say(file={"path": path or self._order["name"], "size": entry["size"], "adler32": adler})

    def _verified(self, path: str, entry: Order, origin: str, file: int | None, *, there: bool) -> None:
        grid, target, size = self._grid, self._there(path), entry["size"]
        own = self._own_sum(origin, file, "adler32", size)
        self._sums[path] = own
        self._expect_checksum(origin, file, size, own)
        if there:
            found = grid.look(target)
            if found is not None and found.st_size == size and grid.checksum(target, "adler32", size) == own:
                return
        grid.copy(origin, target, size)
        name = path or self._order["quoted_name"]
        try:
            arrived = grid.checksum(target, "adler32", size)
        except FaultError as fault:
            if fault.number not in MISSING:
                raise
            text = f"{name!r} was taken by the server, and is not there"
            raise FaultError(text, "transfer", kind="damaged") from None
        if arrived != own:
            text = f"{name!r} arrived damaged: the adler32 is {arrived}, it should be {own}"
            raise FaultError(text, "transfer", kind="damaged")

    def _own_sum(self, origin: str, file: int | None, algorithm: str, size: int) -> str:
        if file is None or self._here is None:
            return self._grid.checksum(origin, algorithm, size, "source")
        return self._here.digest(file, algorithm)

    def _expect_checksum(self, origin: str, file: int | None, size: int, adler: str) -> None:
        if not self._order["checksum"]:
            return
        algorithm, expected = self._order["checksum"]
        found = adler if algorithm == "adler32" else self._own_sum(origin, file, algorithm, size)
        if found != expected:
            text = f"the product has the {algorithm} {found}, but {expected} is expected"
            raise FaultError(f"{text}: correct the one that is wrong, and submit again", "source", kind="never")
        self._sums[f"\0{algorithm}"] = found

    def _checksums(self) -> dict[str, str]:
        if not self._is_folder:
            return {"adler32": self._sums[""], **{k[1:]: v for k, v in self._sums.items() if k.startswith("\0")}}
        return {"manifest-adler32": manifest(self._sums)}


def _too_slow(files: int, size: int) -> FaultError:
    text = f"{files} files of {size} bytes together are moved too slowly"
    return FaultError(text, "transfer", errno.ETIMEDOUT)


def refuse_existing(grid: Grid, order: Order, is_folder: bool) -> None:
    """Raise `FaultError` unless nothing has the final name, or a file that may be replaced by a file."""
    final, _ = names(order)
    if (found := grid.look(final)) is None:
        return
    if not order["overwrite"]:
        text = "exists already (give overwrite=true, or another destination)"
    elif is_folder or not stat.S_ISREG(found.st_mode):
        text = "exists already, and overwrite replaces only a file by a file: remove it, or give another destination"
    else:
        return
    raise FaultError(f"{final} {text}", "destination", errno.EEXIST)


def names(order: Order) -> tuple[str, str]:
    """The URLs of an order's final and temporary name."""
    return f"{order['destination']}/{order['quoted_name']}", f"{order['destination']}/{quote(order['temporary'])}"
