"""Giving a name without taking it from another file."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

__all__ = ["rename_new"]

_RENAME_NOREPLACE = 1
_NOT_HERE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def rename_new(old: str, new: str, folder: int) -> None:
    """Rename ``old`` to ``new`` inside the open ``folder``; raises `FileExistsError` when there is a ``new``.

    Python offers only the rename that replaces, so the kernel's own is called. Where the kernel or the file
    system lacks it (some network and FUSE ones), a look comes first; what appears between the look and the
    rename would be lost, unless it is a folder with something in it, which no rename replaces.
    """
    try:
        _renameat2(folder, os.fsencode(old), os.fsencode(new))
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        _rename_after_look(old, new, folder)


def _renameat2(folder: int, old: bytes, new: bytes) -> None:
    if _kernel is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _kernel(folder, old, folder, new, _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(new))


def _rename_after_look(old: str, new: str, folder: int) -> None:
    try:
        os.stat(new, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)


def _find_renameat2() -> Callable[..., int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # musl before 1.2.5
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int
    return function


_kernel = _find_renameat2()
