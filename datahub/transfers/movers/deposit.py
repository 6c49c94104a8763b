"""Copying one product into an open folder: each file verified, with its mode and time, and on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from threading import Event

from datahub.archive import Archive, Entry, Product
from datahub.errors import FinalFault, PassingFault
from datahub.files import Checksum, Manifest, Mismatch, Position, Shrunk, check, copy_verified, held, set_mode
from datahub.kit.sizes import count
from datahub.transfers.movers import CopiedFile, Filed, Progress, nobody

__all__ = ["Copied", "Deposit", "Modes"]

_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Modes:
    """The permissions of what is delivered: ``file`` is given, folders follow from it."""

    file: int

    @property
    def folder(self) -> int:
        """The same rights, and the right to enter wherever there is the right to read."""
        return self.file | (self.file & 0o444) >> 2


@dataclass(frozen=True, slots=True)
class Copied:
    """What a deposit has made."""

    device: int
    inode: int
    files: int
    size: int
    checksums: dict[str, str]


class Deposit:
    """One copy of ``product``; blocking, so it is made in a thread, which ends soon after ``stop`` is set."""

    def __init__(
        self, archive: Archive, product: Product, modes: Modes, stop: Event, progress: Progress, filed: Filed = nobody
    ) -> None:
        self._archive = archive
        self._product = product
        self._modes = modes
        self._stop = stop
        self._progress = progress
        self._filed = filed
        self._files = 0
        self._size = 0

    def copy(self, folder: int, name: str, checksum: Checksum | None) -> Copied:
        """Copy the product to ``name`` in the open ``folder``.

        Raises `PassingFault` if it changed meanwhile, `FinalFault` if it has not the ``checksum``, `Stopped`,
        `OSError`; what is there then is for the caller to remove.
        """
        if self._product.is_directory:
            checksums = {"manifest-sha256": self._copy_tree(folder, name)}
        else:
            checksums = self._copy_single(folder, name, checksum)
        if (self._files, self._size) != (self._product.files, self._product.size):
            raise self._changed(
                f"{count(self._files, 'file')} of {self._size} bytes, not {self._product.files} of {self._product.size}"
            )
        made = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return Copied(made.st_dev, made.st_ino, self._files, self._size, checksums)

    def _copy_single(self, folder: int, name: str, checksum: Checksum | None) -> dict[str, str]:
        algorithms = [checksum.algorithm] if checksum else []
        [entry] = self._archive.walk(self._product)
        found = self._copy_file(entry, folder, name, algorithms)
        if checksum and found[checksum.algorithm] != checksum.value.lower():
            raise FinalFault(
                f"product {self._product.id!r} has the {checksum.algorithm} {found[checksum.algorithm]}, "
                f"but {checksum.value} is expected: correct the one that is wrong, and submit again"
            )
        return found

    def _copy_tree(self, folder: int, name: str) -> str:
        manifest = Manifest()
        os.mkdir(name, 0o700, dir_fd=folder)
        with Position(os.dup(folder)) as position:
            position.enter(name)
            tree = _Tree(position, self._product.root.stat().st_mtime_ns, self._modes.folder)
            for entry in self._archive.walk(self._product):
                check(self._stop)
                below = tree.go_to(entry.path)
                if entry.is_directory:
                    tree.make(below, entry.mtime_ns)
                else:
                    manifest.add(entry.path, self._copy_file(entry, position.folder, below, [])["sha256"])
            tree.finish()
        return manifest.hexdigest()

    def _copy_file(self, entry: Entry, folder: int, name: str, algorithms: list[str]) -> dict[str, str]:
        path = entry.path or self._product.name
        self._filed(CopiedFile(path, entry.size))
        with held(self._archive.open(self._product, entry)) as source:
            before = os.fstat(source)
            if (before.st_ino, before.st_size, before.st_mtime_ns) != (entry.inode, entry.size, entry.mtime_ns):
                raise self._changed(repr(entry.path))
            with held(os.open(name, _NEW_FILE, 0o600, dir_fd=folder)) as target:
                checksums = self._copy_bytes(entry, source, target, algorithms)
                set_mode(target, self._modes.file)
                os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
                os.fsync(target)
            if _state(os.fstat(source)) != _state(before):
                raise self._changed(repr(entry.path))
        self._files += 1
        self._size += entry.size
        self._filed(CopiedFile(path, entry.size, Checksum("sha256", checksums["sha256"])))
        return checksums

    def _copy_bytes(self, entry: Entry, source: int, target: int, algorithms: list[str]) -> dict[str, str]:
        try:
            return copy_verified(source, target, entry.size, algorithms, self._stop, self._progress)
        except (Shrunk, Mismatch) as error:
            raise self._changed(str(error) or repr(entry.path)) from error

    def _changed(self, what: str) -> PassingFault:
        return PassingFault(f"product {self._product.id!r} changed while it was copied ({what})")


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink


class _Tree:
    """Builds the folders of a tree, listed each before what is in it; one is finished when the list has left it."""

    def __init__(self, position: Position, mtime_ns: int, mode: int) -> None:
        self._position = position
        self._mode = mode
        self._path = ""
        self._mtimes = [mtime_ns]

    def go_to(self, path: str) -> str:
        """Go to the folder in which ``path`` lies, and give its name there."""
        above, _, name = path.rpartition("/")
        while self._path != above:
            self._finish_folder()
            self._position.leave()
            self._path = self._path.rpartition("/")[0]
        return name

    def make(self, name: str, mtime_ns: int) -> None:
        """Make the folder ``name`` here, and go into it."""
        os.mkdir(name, 0o700, dir_fd=self._position.folder)
        self._position.enter(name)
        self._path = f"{self._path}/{name}" if self._path else name
        self._mtimes.append(mtime_ns)

    def finish(self) -> None:
        """Finish all folders up to the top."""
        self.go_to("")
        self._finish_folder()

    def _finish_folder(self) -> None:
        """Let a folder be as it is to stay: only now, because it could be closed to us, and its time would change."""
        set_mode(self._position.folder, self._mode)
        os.utime(self._position.folder, ns=(self._mtimes[-1], self._mtimes.pop()))
        os.fsync(self._position.folder)
