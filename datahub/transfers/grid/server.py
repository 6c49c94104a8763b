"""What is asked of servers, by gfal2: faults tell at which end they are. Standard library and gfal2 only."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from datahub.transfers.grid.digests import new_digest

try:
    import gfal2
except ImportError:
    gfal2 = None

__all__ = ["BLOCK", "HAS_GFAL2", "MISSING", "PATIENCE", "SLOWEST", "WEB", "FaultError", "Grid", "Line", "time_for"]

T = TypeVar("T")

HAS_GFAL2 = gfal2 is not None
BLOCK = 1024 * 1024
PATIENCE = 60  # seconds in which a peer must do something
BREATH = 5.0  # seconds between two lines that only say that it goes on
SLOWEST = 5_000_000  # bytes a second: a server that computes a checksum more slowly has failed
SLOWEST_COPY = 100_000  # bytes a second in all, so that who drips holds no place for ever
LEAST_TIME = 3600  # seconds that a copy, or a folder's list, may take in all, however small it is

MISSING = (errno.ENOENT,)
THERE = (errno.EEXIST,)
WEB = ("davs:", "https:")
GRIDFTP_ERRNO = re.compile(r"GridFTP-Errno: (\d+)")


class FaultError(Exception):
    """What can't be done: ``where`` is "source" or "destination", ``kind`` an errno or a word for the mover."""

    def __init__(self, text: str, where: str, number: int = 0, kind: str = "") -> None:
        super().__init__(text)
        self.where = where
        self.number = number
        self.kind = kind


def time_for(size: int, files: int = 1) -> int:
    """Seconds in which ``files`` of ``size`` bytes together must have moved; silence is noticed long before."""
    return max(LEAST_TIME, size // SLOWEST_COPY + files)


class Line:
    """The way back to the mover."""

    def __init__(self, file: int) -> None:
        self._file = os.fdopen(file, "w", buffering=1)

    def say(self, **what: Any) -> None:
        """Send one line."""
        self._file.write(json.dumps(what) + "\n")


class Grid:
    """gfal2, with faults that tell at which end they are; it keeps its connections from call to call."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._silent_since = 0.0
        self._context = gfal2.creat_context()
        self._context.set_opt_boolean("GRIDFTP PLUGIN", "SESSION_REUSE", True)
        self._context.set_opt_integer("CORE", "NAMESPACE_TIMEOUT", PATIENCE)
        self.fetch_tokens(wanted=False)

    def fetch_tokens(self, *, wanted: bool) -> None:
        """Whether WebDAV servers are asked for tokens, as one needs that is to fetch from another.

        Where there are none, as at most servers, each request would be two, on a new connection each.
        """
        self._context.set_opt_boolean("HTTP PLUGIN", "RETRIEVE_BEARER_TOKEN", wanted)

    def _at(self, where: str, call: Callable[..., T], *values: Any) -> T:
        try:
            answer = call(*values)
        except gfal2.GError as error:
            raise _fault(error, where) from None
        # A tree at a server far away takes thousands of answers: the mover is to see that they come.
        if time.monotonic() > self._silent_since + BREATH:
            self.line.say(patience=PATIENCE)
            self._silent_since = time.monotonic()
        return answer

    def look(self, url: str, where: str = "destination") -> Any:
        """What is at ``url``; None for nothing."""
        try:
            return self._at(where, self._context.stat, url)
        except FaultError as fault:
            if fault.number in MISSING:
                return None
            raise

    def names(self, url: str, where: str = "destination", *, readable: bool = False) -> list[tuple[str, Any]]:
        """What is in a folder: names, and what `stat` would say of each; WebDAV's as the server has written them.

        One that is not UTF-8 is a fault; with ``readable`` it is passed over.
        """
        found: list[tuple[str, Any]] = []
        end = time.monotonic() + LEAST_TIME
        folder = self._at(where, self._context.directory, url)
        while True:
            entry, status = self._at(where, folder.readpp)
            if time.monotonic() > end:
                text = f"{url} is listed too slowly, or has no end: {len(found)} names so far"
                raise FaultError(text, where, errno.ETIMEDOUT)
            try:
                name = "" if entry is None else entry.d_name
            except UnicodeDecodeError:
                if readable:
                    continue
                raise FaultError(f"{url} holds a name that is not UTF-8", where, errno.EILSEQ) from None
            if not name:
                return found
            if name not in {".", ".."}:
                found.append((name, status))

    def _plain(self, url: str, name: str, where: str = "destination") -> str:
        """What is meant by a listed name: most WebDAV servers escape them, XRootD does not."""
        read = unquote(name)
        is_escaped = url.startswith(WEB) and read != name and self.look(f"{url}/{quote(read)}", where) is not None
        return read if is_escaped else name

    def walk(self, url: str, where: str = "destination", above: str = "") -> Iterator[tuple[str, Any]]:
        """All that is in a tree, each folder before what is in it."""
        for listed, status in self.names(url, where):
            name = self._plain(url, listed, where)
            yield above + name, status
            if stat.S_ISDIR(status.st_mode):
                yield from self.walk(f"{url}/{quote(name)}", where, f"{above}{name}/")

    def make_folder(self, url: str) -> None:
        """Make a folder and those above it, unless it is there."""
        if not url.startswith(WEB):
            self._at("destination", self._context.mkdir_rec, url, 0o755)
            return
        # gfal2 gives those above it names that not all WebDAV servers take for a folder's.
        try:
            self._make_web_folder(url)
        except FaultError as fault:
            above = url.rpartition("/")[0]
            if fault.number not in MISSING or above.count("/") < 3:
                raise
            self.make_folder(above)
            self._make_web_folder(url)

    def _make_web_folder(self, url: str) -> None:
        try:
            self._at("destination", self._context.mkdir, _as_folder(url), 0o755)
        except FaultError as fault:
            if fault.number not in THERE:
                raise

    def rename(self, old: str, new: str, *, folder: bool, replace: bool) -> None:
        """Give another name.

        Only WebDAV servers look themselves that nothing is replaced, and not all; others replace what had it before.
        """
        if folder:
            old, new = _as_folder(old), _as_folder(new)
        # RFC 4918, 10.6
        self._context.set_opt_string_list("HTTP PLUGIN", "HEADERS", [] if replace else ["Overwrite: F"])
        try:
            self._at("destination", self._context.rename, old, new)
        except FaultError as fault:
            if not replace and "HTTP 412" in str(fault):
                text = "exists since a moment ago (give overwrite=true, or another destination)"
                raise FaultError(f"{new} {text}", "destination", errno.EEXIST) from None
            raise
        finally:
            self._context.set_opt_string_list("HTTP PLUGIN", "HEADERS", [])
        if new.startswith(WEB) and "%" in new and self.look(new) is None:
            self._refuse_misread(new)

    def _refuse_misread(self, new: str) -> None:
        """XRootD (5.5) takes the escapes that a MOVE has in the new name for the name itself, and makes folders so."""
        misread = new.rstrip("/").replace("%", "%25")
        with suppress(FaultError):
            self.remove(misread)
            while "%" in (misread := misread.rpartition("/")[0]):
                self._at("destination", self._context.rmdir, _as_folder(misread))
        text = "is a name that this server gets wrong when it renames, as XRootD does over WebDAV: deliver to root://"
        raise FaultError(f"{new} {text}, or to a folder and by a name without escapes", "destination", kind="never")

    def remove(self, url: str) -> None:
        """Remove a file or a tree, if it is there."""
        if (found := self.look(url)) is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            self._at("destination", self._context.unlink, url)
        elif not self._removed_whole(url):
            for name, _ in self.names(url):
                self.remove(f"{url}/{quote(self._plain(url, name))}")
            self._at("destination", self._context.rmdir, _as_folder(url))

    def _removed_whole(self, url: str) -> bool:
        """A WebDAV server removes a folder with all that is in it (RFC 4918, 9.6.1), if it can."""
        if url.startswith(WEB):
            with suppress(FaultError):
                self._at("destination", self._context.rmdir, _as_folder(url))
                return True
        return False

    def copy(self, source: str, target: str, size: int) -> None:
        """Copy one file, telling how it gets on."""
        told, end = 0, time.monotonic() + time_for(size)

        def tell(_source: str, _target: str, _average: int, _now: int, moved: int, _elapsed: int) -> None:
            nonlocal told
            # For WebDAV gfal2 does not keep to the time that it is given: the mover gives up who is silent.
            if moved > told and time.monotonic() < end:
                self.line.say(moved=moved - told)
                told = moved

        how = self._context.transfer_parameters()
        how.overwrite, how.create_parent, how.monitor_callback = True, False, tell
        how.timeout = time_for(size)
        self._at("transfer", self._context.filecopy, how, source, target)
        self.line.say(moved=max(0, size - told))

    def checksum(self, url: str, algorithm: str, size: int, where: str = "destination") -> str:
        """The digest of a file there, in all its digits: as the server says, or of all that is read from it."""
        self.line.say(patience=PATIENCE + size // SLOWEST)
        try:
            return str(self._at(where, self._context.checksum, url, algorithm.upper())).lower().zfill(8)
        except FaultError as fault:
            # Servers have many words for not knowing it; what else is wrong shows when it is read.
            if fault.number in MISSING:
                raise
        file = self._at(where, self._context.file, url, "r")
        digest, end, rest = new_digest(algorithm), time.monotonic() + time_for(size), size
        while block := self._at(where, file.read_bytes, BLOCK):
            digest.update(block)
            self.line.say(patience=PATIENCE)
            rest -= len(block)
            if rest < 0:
                raise FaultError(f"{url} holds more than {size} bytes", where, kind="damaged")
            if time.monotonic() > end:
                raise FaultError(f"{url} is read too slowly: {size} bytes take too long", where, errno.ETIMEDOUT)
        return str(digest.hexdigest())


def _as_folder(url: str) -> str:
    """Some WebDAV servers know a folder only by a name that ends as one."""
    return f"{url}/" if url.startswith(WEB) else url


def _fault(error: Any, where: str) -> FaultError:
    """Take the number from GridFTP's own words, where gfal2 knows only that something failed."""
    text = " ".join(str(error).split())
    told = GRIDFTP_ERRNO.search(text)
    return FaultError(text[:2000], where, int(told[1]) if told else error.code)
