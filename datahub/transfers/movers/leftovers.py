"""What attempts have left under temporary names in a tree of deliveries; blocking, so called in a thread."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from threading import Event

from twisted.logger import Logger

from datahub.files import Position, check, remove
from datahub.transfers.movers import Leftover

__all__ = ["PREFIX", "find_leftovers", "remove_leftover"]

log = Logger()

PREFIX = ".datahub-"
_NAME = re.compile(re.escape(PREFIX) + r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-[0-9.]+")
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ESTALE, errno.ELOOP}


def find_leftovers(root: Path, before: float, stop: Event) -> list[Leftover]:
    """List what has a temporary name anywhere below ``root``, unchanged since ``before`` (seconds since 1970).

    No link is followed. Folders that can't be read, or go meanwhile, are passed over. Raises `Stopped`.
    """
    found: list[Leftover] = []
    try:
        opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        log.info("no look for leftovers in {root}: {error}", root=str(root), error=error.strerror)
        return found
    with Position(opened) as position:
        waiting = [iter(_look(position, "", before, found))]
        path: list[str] = []
        while waiting:
            check(stop)
            below = next(waiting[-1], None)
            if below is None:
                waiting.pop()
                if path:
                    path.pop()
                    position.leave()
            elif _entered(position, below):
                path.append(below)
                waiting.append(iter(_look(position, "/".join(path), before, found)))
    return found


def _entered(position: Position, name: str) -> bool:
    try:
        position.enter(name)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return False
    return True


def _look(position: Position, path: str, before: float, found: list[Leftover]) -> list[str]:
    """Add the leftovers of one folder to ``found``, and give the names of the folders in it."""
    folders = []
    try:
        with os.scandir(position.folder) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match is None:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                elif entry.stat(follow_symlinks=False).st_ctime < before:
                    found.append(Leftover(match[1], f"{path}/{entry.name}" if path else entry.name))
    except OSError as error:
        if error.errno not in _GONE:
            raise
    return folders


def remove_leftover(root: Path, leftover: Leftover, stop: Event) -> None:
    """Remove what was found, if it is there still; raises `OSError`."""
    check(stop)
    *folders, name = leftover.place.split("/")
    with Position(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as position:
        if all(_entered(position, each) for each in folders):
            remove(name, position.folder)
