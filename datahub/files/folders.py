"""Moving about in trees of folders by descriptors: no depth is too deep, and no link is followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from datahub.files.permissions import set_mode

__all__ = ["Position", "held", "make_folder", "remove"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def held(descriptor: int) -> Iterator[int]:
    """Give an open file's descriptor, and close it at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Position:
    """A place in a tree, held by one descriptor whatever its depth; it owns the ``folder`` it is given.

    The way up is ``..``, checked to be the folder that was left: a tree that is moved meanwhile leads nowhere else.
    """

    def __init__(self, folder: int) -> None:
        self.folder = folder
        self._above: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.folder)

    @property
    def depth(self) -> int:
        """How many folders it is below where it began."""
        return len(self._above)

    def enter(self, name: str) -> None:
        """Go down into the folder ``name``; raises `OSError` (ENOTDIR for a link)."""
        below = os.open(name, _FOLDER, dir_fd=self.folder)
        self._above.append(_identity(self.folder))
        self._move(below)

    def leave(self) -> None:
        """Go up; raises `OSError` (ESTALE when the folder was moved)."""
        above = os.open("..", _FOLDER, dir_fd=self.folder)
        if _identity(above) != self._above.pop():
            os.close(above)
            raise OSError(errno.ESTALE, "the folder was moved meanwhile")
        self._move(above)

    def _move(self, folder: int) -> None:
        os.close(self.folder)
        self.folder = folder


def _identity(file: int) -> tuple[int, int]:
    found = os.fstat(file)
    return found.st_dev, found.st_ino


def make_folder(name: str, folder: int, mode: int) -> None:
    """Make the folder ``name`` inside ``folder``, durably; one that is there already is left as it is."""
    try:
        os.mkdir(name, mode, dir_fd=folder)
    except FileExistsError:
        return
    with held(os.open(name, _FOLDER, dir_fd=folder)) as made:
        set_mode(made, mode)
    os.fsync(folder)


def remove(name: str, folder: int) -> None:
    """Remove the file or whole tree ``name`` from the open ``folder``; links are removed, never followed.

    Nothing of that name is fine. Raises `OSError`.
    """
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=folder)
        return
    with Position(os.dup(folder)) as position:
        _empty(position, name)
    os.rmdir(name, dir_fd=folder)


def _empty(position: Position, name: str) -> None:
    """Remove all below ``name``; folders are emptied one at a time, so memory and descriptors don't grow with depth."""
    position.enter(name)
    way = [name]
    while way:
        below = _unlink_files(position.folder)
        if below is not None:
            position.enter(below)
            way.append(below)
            continue
        position.leave()
        done = way.pop()
        if way:
            os.rmdir(done, dir_fd=position.folder)


def _unlink_files(folder: int) -> str | None:
    """Remove the files of ``folder`` up to its first folder, and give that."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=folder)
    return None
