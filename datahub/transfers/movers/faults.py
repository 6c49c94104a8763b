"""What the operating system refuses at a destination, in words for people."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datahub.archive import Product
from datahub.errors import FinalFault, PassingFault
from datahub.files import user_name
from datahub.kit.sizes import count

__all__ = ["destination_faults", "full"]

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM}
_NEVER = {
    errno.ENAMETOOLONG: "a name is too long for the file system: give another destination or rename the product",
    errno.EILSEQ: "the file system takes no such name: give another destination or rename the product",
    errno.EFBIG: "the file system takes no file so large: give another destination",
    errno.EISDIR: "a folder is in the way: give another destination",
    errno.ENOTDIR: "is a file or a symbolic link, and deliveries go through no link, so that none leads out of the "
    "allowed folder: give another destination",
    errno.EEXIST: "two names of the product are the same there: give another destination",
}


@contextmanager
def destination_faults(folder: str, product: Product | None = None) -> Iterator[None]:
    """Turn each `OSError` of work in ``folder`` into a `FinalFault`, or into a `PassingFault` if it may pass.

    An absolute ``filename`` of the error says that it was another folder.
    """
    try:
        yield
    except OSError as error:
        named = error.filename
        place = named if isinstance(named, str) and named.startswith("/") else folder
        raise _fault(error, place, product) from error


def full(
    folder: str, product: Product | None, space: os.statvfs_result, reason: str = "the disk is full"
) -> PassingFault:
    """Say how much room is free, and how much the product needs."""
    needed = f"product {product.id!r} needs {product.size} bytes in {count(product.files, 'file')}, " if product else ""
    free = space.f_bavail * space.f_frsize
    return PassingFault(f"{folder!r}: {reason}: {needed}{free} bytes and {space.f_favail} files are free")


def _fault(error: OSError, folder: str, product: Product | None) -> PassingFault | FinalFault:
    number = error.errno or 0
    if number in _FULL:
        return full(folder, product, _space(folder), (error.strerror or "full").lower())
    if number in _REFUSED:
        return FinalFault(
            f"the user {user_name()} may not write in {folder!r}: permit it to, or give another destination"
        )
    if number in _NEVER:
        return FinalFault(f"{folder!r}: {_NEVER[number]}")
    return PassingFault(f"{folder!r}: {error.strerror or error}")


def _space(folder: str) -> os.statvfs_result:
    """Ask for the room in ``folder``, or in the nearest folder above it that is there."""
    path = Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    return os.statvfs(path)
