"""The program that moves files for the mover ``gfal:``: it is given orders on standard input, a line of JSON each.

It is run by the Python of the host's distribution, which has the bindings of gfal2; so it knows nothing of datahub, nor
of anything that is not in the standard library. It carries out one order at a time, and may be killed at any moment.
It answers each with ``{"done": …}`` or ``{"fault": …}``, and before that as often as it gets on with
``{"moved": bytes}`` and, before what may be silent for long, ``{"patience": seconds}``.

One process for many orders, because a login at a GridFTP server takes a hundred times as long as a small file.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import quote

try:
    import gfal2
except ImportError:
    gfal2 = None

T = TypeVar("T")
Order = dict[str, Any]

BLOCK = 1024 * 1024
PATIENCE = 60  # seconds in which a peer must do something
SLOWEST = 5_000_000  # bytes a second: a server that computes a checksum more slowly has failed
MANY = 8
"""From so many files on globus-url-copy is quicker, far away by far: it does not wait for the end of one file."""

DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
MISSING = (errno.ENOENT,)
NO_CHECKSUMS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
GRIDFTP_ERRNO = re.compile(r"GridFTP-Errno: (\d+)")


class FaultError(Exception):
    """What can't be done: ``where`` is "source" or "destination", ``kind`` an errno or a word for the mover."""

    def __init__(self, text: str, where: str, number: int = 0, kind: str = "") -> None:
        super().__init__(text)
        self.where = where
        self.number = number
        self.kind = kind


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
        self._context = gfal2.creat_context()
        self._context.set_opt_boolean("GRIDFTP PLUGIN", "SESSION_REUSE", True)
        self._context.set_opt_integer("CORE", "NAMESPACE_TIMEOUT", PATIENCE)

    def _at(self, where: str, call: Callable[..., T], *values: Any) -> T:
        try:
            return call(*values)
        except gfal2.GError as error:
            raise _fault(error, where) from None

    def look(self, url: str, where: str = "destination") -> Any:
        """What is at ``url``; None for nothing."""
        try:
            return self._at(where, self._context.stat, url)
        except FaultError as fault:
            if fault.number in MISSING:
                return None
            raise

    def names(self, url: str, where: str = "destination") -> list[tuple[str, Any]]:
        """What is in a folder: names, and what `stat` would say of each."""
        found: list[tuple[str, Any]] = []
        try:
            folder = self._at(where, self._context.directory, url)
            while True:
                entry, status = self._at(where, folder.readpp)
                if entry is None or not entry.d_name:
                    return found
                if entry.d_name not in {".", ".."}:
                    found.append((entry.d_name, status))
        except UnicodeDecodeError:
            raise FaultError(f"{url} holds a name that is not UTF-8", where, errno.EILSEQ) from None

    def walk(self, url: str, where: str = "destination", above: str = "") -> Iterator[tuple[str, Any]]:
        """All that is in a tree, each folder before what is in it."""
        for name, status in self.names(url, where):
            yield above + name, status
            if stat.S_ISDIR(status.st_mode):
                yield from self.walk(f"{url}/{quote(name)}", where, f"{above}{name}/")

    def make_folder(self, url: str) -> None:
        """Make a folder and those above it, unless it is there."""
        self._at("destination", self._context.mkdir_rec, _as_folder(url), 0o755)

    def rename(self, old: str, new: str, *, folder: bool) -> None:
        """Give another name; on GridFTP servers what had it before is replaced."""
        if folder:
            old, new = _as_folder(old), _as_folder(new)
        self._at("destination", self._context.rename, old, new)

    def remove(self, url: str) -> None:
        """Remove a file or a tree, if it is there."""
        if (found := self.look(url)) is not None and stat.S_ISDIR(found.st_mode):
            for name, _ in self.names(url):
                self.remove(f"{url}/{quote(name)}")
            self._at("destination", self._context.rmdir, url)
        elif found is not None:
            self._at("destination", self._context.unlink, url)

    def copy(self, source: str, target: str, size: int) -> None:
        """Copy one file, telling how it gets on."""
        told = 0

        def tell(_source: str, _target: str, _average: int, _now: int, moved: int, _elapsed: int) -> None:
            nonlocal told
            if moved > told:
                self.line.say(moved=moved - told)
                told = moved

        how = self._context.transfer_parameters()
        how.overwrite, how.create_parent, how.monitor_callback = True, False, tell
        how.timeout = max(3600, size // SLOWEST)
        self._at("transfer", self._context.filecopy, how, source, target)
        self.line.say(moved=max(0, size - told))

    def checksum(self, url: str, algorithm: str, size: int, where: str = "destination") -> str:
        """The digest of a file there, in all its digits: as the server says, or of all that is read from it."""
        self.line.say(patience=PATIENCE + size // SLOWEST)
        try:
            return str(self._at(where, self._context.checksum, url, algorithm.upper())).lower().zfill(8)
        except FaultError as fault:
            if fault.number not in NO_CHECKSUMS and "checksum algorithm" not in str(fault):
                raise
        file = self._at(where, self._context.file, url, "r")
        digest = new_digest(algorithm)
        while block := self._at(where, file.read_bytes, BLOCK):
            digest.update(block)
            self.line.say(patience=PATIENCE)
        return str(digest.hexdigest())


def _as_folder(url: str) -> str:
    """Some WebDAV servers know a folder only by a name that ends as one."""
    return f"{url}/" if url.startswith(("davs:", "https:")) else url


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


class Here:
    """A product of this host: each file must still be the one that the hub has found."""

    def __init__(self, order: Order, line: Line) -> None:
        self._root = order["root"]
        self._list = order["list"]
        self._line = line
        self.is_folder = order["folder"]

    def checked(self) -> dict[str, Order]:
        """All that the hub has said of files, by path."""
        with open(self._list, encoding="ascii") as lines:  # noqa: PTH123
            return {entry["path"]: entry for entry in map(json.loads, lines)}

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
        self._list()
        self._refuse_hopeless()
        files = {path: entry for path, entry in self._entries.items() if not entry["is_directory"]}
        self._grid.make_folder(self._order["destination"])
        self._grid.remove(self._target)
        try:
            if self._is_folder:
                self._make_folders()
            bulk = self._in_bulk(files) if len(files) >= MANY else False
            for path, entry in files.items():
                self._copy_file(path, entry, there=bulk)
        except BaseException:
            with suppress(FaultError):
                self._grid.remove(self._target)
            raise
        size = sum(entry["size"] for entry in files.values())
        return {"files": len(files), "size": size, "folder": self._is_folder, "checksums": self._checksums()}

    def _list(self) -> None:
        if self._here:
            self._entries = self._here.checked()
            return
        url = self._order["url"]
        found = self._grid.look(url, "source")
        if found is None:
            raise FaultError(f"{url} is not there", "source", errno.ENOENT)
        self._is_folder = stat.S_ISDIR(found.st_mode)
        for path, status in self._grid.walk(url, "source") if self._is_folder else [("", found)]:
            is_folder = stat.S_ISDIR(status.st_mode)
            self._entries[path] = {"size": 0 if is_folder else status.st_size, "is_directory": is_folder}

    def _refuse_hopeless(self) -> None:
        """Say before any byte is moved what would be said after."""
        if self._is_folder and self._order["checksum"]:
            raise FaultError("a checksum is that of a single file, and the product is a folder", "source", kind="never")
        for path in self._entries:
            # They end a command of FTP, or are no text at all.
            if any(not sign.isprintable() for sign in path):
                raise FaultError(f"the name {path!r} can't be moved by gfal2: rename it", "source", kind="never")
        _refuse_existing(self._grid, self._order, self._is_folder)

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
        # It is to outlive us as little as we outlive the hub.
        command = ["setpriv", "--pdeathsig", "KILL", program, "-fast", "-pp", "-vb", "-st", str(PATIENCE)]
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
                self._follow(running.stdout, files)
        strangers = [path for path, _ in self._grid.walk(self._target) if path not in self._entries]
        if strangers:
            # It came to the product since that was listed, so it is not verified.
            raise FaultError(f"{strangers[0]!r} came to it while it was moved", "source", kind="changed")
        return True

    def _follow(self, output: Any, files: dict[str, Order]) -> None:
        """It names each file that it begins, and counts the bytes of a large one."""
        sizes = [entry["size"] for entry in files.values()]
        patience, rest = PATIENCE + max(sizes) // SLOWEST, iter(sizes)
        size = counted = 0
        self._grid.line.say(patience=patience)
        while data := output.read1(BLOCK):
            for part in re.split(rb"[\r\n]", data):
                count = re.match(rb"\s*(\d+) bytes", part)
                if count:
                    self._grid.line.say(moved=max(0, int(count[1]) - counted), patience=patience)
                    counted = max(counted, int(count[1]))
                elif part.startswith(b"  "):
                    self._grid.line.say(moved=max(0, size - counted), patience=patience)
                    size, counted = next(rest, 0), 0

    def _copy_file(self, path: str, entry: Order, *, there: bool) -> None:
        if self._here:
            with self._here.opened(path, entry) as file:
                self._verified(path, entry, f"file:///proc/self/fd/{file}", file, there=there)
        else:
            self._verified(path, entry, self._origin(path), None, there=there)

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
        arrived = grid.checksum(target, "adler32", size)
        if arrived != own:
            raise FaultError(
                f"{path or self._order['quoted_name']!r} arrived damaged: the adler32 is {arrived}, it should be {own}",
                "transfer",
                kind="damaged",
            )

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


def manifest(sums: dict[str, str]) -> str:
    """The SHA-256 over a line ``adler32  ./path`` for each file, in the order of their paths' bytes."""
    whole = hashlib.sha256()
    for path in sorted(sums, key=str.encode):
        whole.update(f"{sums[path]}  ./{path}\n".encode())
    return whole.hexdigest()


def _refuse_existing(grid: Grid, order: Order, is_folder: bool) -> None:
    final, _ = _names(order)
    if (found := grid.look(final)) is None:
        return
    if not order["overwrite"]:
        text = "exists already (give overwrite=true, or another destination)"
    elif is_folder or not stat.S_ISREG(found.st_mode):
        text = "exists already, and overwrite replaces only a file by a file: remove it, or give another destination"
    else:
        return
    raise FaultError(f"{final} {text}", "destination", errno.EEXIST)


def publish(grid: Grid, order: Order) -> Order:
    """Give what was copied its final name, or find that it has it."""
    final, temporary = _names(order)
    if grid.look(temporary) is not None:
        _refuse_existing(grid, order, order["folder"])
        grid.rename(temporary, final, folder=order["folder"])
    elif not _is_ours(grid, order, final):
        raise FaultError(f"the copy for {final} has gone: it is made again", "destination", kind="lost")
    return {}


def find(grid: Grid, order: Order) -> Order:
    """Say whether what was copied has its final name."""
    final, temporary = _names(order)
    return {"published": grid.look(temporary) is None and _is_ours(grid, order, final)}


def _names(order: Order) -> tuple[str, str]:
    return f"{order['destination']}/{order['quoted_name']}", f"{order['destination']}/{quote(order['temporary'])}"


def _is_ours(grid: Grid, order: Order, final: str) -> bool:
    """Whether all that was copied is under the final name: there is nothing else by which it could be known."""
    found, known = grid.look(final), order["checksums"]
    if found is None or stat.S_ISDIR(found.st_mode) != order["folder"]:
        return False
    if not order["folder"]:
        return bool(
            found.st_size == order["size"] and grid.checksum(final, "adler32", order["size"]) == known["adler32"]
        )
    files = ((path, status.st_size) for path, status in grid.walk(final) if not stat.S_ISDIR(status.st_mode))
    sums = {path: grid.checksum(f"{final}/{quote(path)}", "adler32", size) for path, size in files}
    return bool(manifest(sums) == known["manifest-adler32"])


def discard(grid: Grid, order: Order) -> Order:
    """Remove all that has a name with the transfer's prefix."""
    folder = order["destination"]
    found = grid.look(folder)
    there = grid.names(folder) if found is not None and stat.S_ISDIR(found.st_mode) else []
    for name in (each for each, _ in there if each.startswith(order["prefix"])):
        grid.remove(f"{folder}/{quote(name)}")
    return {}


VERBS = {"copy": lambda grid, order: Copy(grid, order).run(), "publish": publish, "find": find, "discard": discard}


def _fault(error: Any, where: str) -> FaultError:
    """Take the number from GridFTP's own words, where gfal2 knows only that something failed."""
    text = " ".join(str(error).split())
    told = GRIDFTP_ERRNO.search(text)
    return FaultError(text[:2000], where, int(told[1]) if told else error.code)


def obey(grid: Grid | None, line: Line, order: Order) -> None:
    """Carry out one order and answer it."""
    try:
        if grid is None:
            raise FaultError("this host's Python has no gfal2", "here", kind="missing")
        line.say(done=VERBS[order["do"]](grid, order))
    except FaultError as fault:
        line.say(fault={"text": str(fault), "where": fault.where, "errno": fault.number, "kind": fault.kind})
    except OSError as error:
        text = f"{error.filename or 'the product'}: {error.strerror or error}"
        line.say(fault={"text": text, "where": "source", "errno": error.errno or 0, "kind": ""})


def main() -> None:
    """Obey until there are no more orders; die with the hub, whatever goes on."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    os.setsid()
    # What libraries print goes to the hub's log.
    line = Line(os.dup(1))
    os.dup2(2, 1)
    grid = Grid(line) if gfal2 is not None else None
    for order in sys.stdin:
        obey(grid, line, json.loads(order))


if __name__ == "__main__":
    main()
