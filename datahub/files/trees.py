"""The digests of what lies on disk, file or tree, found by name in an open folder; no link is followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from threading import Event

from datahub.files.digests import Manifest, digest_of
from datahub.files.folders import Position, held
from datahub.files.stopping import check

__all__ = ["manifest_of", "sha256_of"]


def sha256_of(name: str, folder: int, stop: Event) -> str:
    """Give the SHA-256 of the file ``name``; raises `Stopped`, `OSError`."""
    with held(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)) as file:
        return digest_of(file, "sha256", stop)


def manifest_of(name: str, folder: int, stop: Event) -> str | None:
    """Give the `Manifest` digest of the tree ``name``, None when there is in it what is no file or folder.

    Raises `Stopped`, `OSError`.
    """
    manifest = Manifest()
    with Position(os.dup(folder)) as position:
        position.enter(name)
        path: list[str] = []
        levels = [_names(position.folder)]
        while levels:
            check(stop)
            each = next(levels[-1], None)
            if each is None:
                levels.pop()
                if levels:
                    path.pop()
                    position.leave()
            elif each.endswith("/"):
                path.append(each[:-1])
                position.enter(each[:-1])
                levels.append(_names(position.folder))
            elif stat.S_ISREG(os.stat(each, dir_fd=position.folder, follow_symlinks=False).st_mode):
                manifest.add("/".join([*path, each]), sha256_of(each, position.folder, stop))
            else:
                return None
    return manifest.hexdigest()


def _names(folder: int) -> Iterator[str]:
    """The names in a folder in the order of their files' paths: those of folders end in '/', and sort as such."""
    with os.scandir(folder) as entries:
        names = [each.name + "/" if each.is_dir(follow_symlinks=False) else each.name for each in entries]
    return iter(sorted(names, key=os.fsencode))
