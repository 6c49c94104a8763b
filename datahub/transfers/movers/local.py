"""The mover for ``file://`` destinations: verified copies below one folder of this host."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event

from datahub.archive import Archive, Product
from datahub.errors import FinalFault, InvalidRequest, PassingFault
from datahub.files import (
    Position,
    check,
    held,
    make_folder,
    manifest_of,
    path_of_url,
    remove,
    rename_new,
    sha256_of,
    url_of_path,
)
from datahub.kit.threads import Pool, stoppable
from datahub.transfers.movers import Delivery, DeliveryLost, Filed, Leftover, Order, Progress, nobody
from datahub.transfers.movers.deposit import Deposit, Modes
from datahub.transfers.movers.faults import destination_faults, full
from datahub.transfers.movers.leftovers import PREFIX, find_leftovers, remove_leftover

__all__ = ["LocalMover"]

# What a file system without hard links answers (FAT, exFAT, many FUSE ones).
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


class LocalMover:
    """Deposits products in folders below ``root``, which must be there: it may be a mount that is away.

    Folders on the way are made; links on the way are never followed, so that none leads out. Files get
    ``mode`` whatever the umask, folders the same with the right to enter where there is one to read.
    """

    fetches = False

    def __init__(self, root: Path, pool: Pool, archive: Archive, mode: int = 0o644) -> None:
        self._root = root
        self._pool = pool
        self._archive = archive
        self._modes = Modes(mode)

    def check(self, destination: str) -> None:
        """Raise `InvalidRequest` unless ``destination`` is a ``file://`` URL of a folder below the root."""
        self._parts(destination)

    def claims(self, order: Order, name: str) -> str | None:
        """Nothing: the file system replaces nothing that was not looked at."""
        return None

    async def copy(self, order: Order, product: Product, progress: Progress, filed: Filed = nobody) -> Delivery:
        """Copy under the name ``.datahub-{transfer}-{attempt}`` in the destination's folder."""
        return await stoppable(self._pool, partial(self._copy, order, product, progress, filed))

    async def publish(self, order: Order, delivery: Delivery) -> None:
        """Link a file to its name, or rename a folder; nothing is clobbered unless the order says overwrite."""
        await stoppable(self._pool, partial(self._publish, order, delivery))

    async def is_published(self, order: Order, delivery: Delivery) -> bool:
        """Whether what was copied is at its final name."""
        return await stoppable(self._pool, partial(self._is_published, order, delivery))

    async def discard(self, order: Order) -> None:
        """Remove ``.datahub-{transfer}-*`` from the destination's folder."""
        await stoppable(self._pool, partial(self._discard, order))

    async def leftovers(self, before: float) -> list[Leftover]:
        """Look for ``.datahub-*`` in all folders below the root."""
        return await stoppable(self._pool, partial(find_leftovers, self._root, before))

    async def remove(self, leftover: Leftover) -> None:
        """Remove a file or folder that `leftovers` found."""
        await stoppable(self._pool, partial(remove_leftover, self._root, leftover))

    def _copy(self, order: Order, product: Product, progress: Progress, filed: Filed, stop: Event) -> Delivery:
        check(stop)
        path, name = self._path(order), _temporary(order)
        with destination_faults(path, product), held(self._folder(order, make=True)) as folder:
            _refuse_hopeless(order, product, path, folder)
            remove(name, folder)
            try:
                deposit = Deposit(self._archive, product, self._modes, stop, progress, filed)
                copied = deposit.copy(folder, name, order.checksum)
            except BaseException:
                with suppress(OSError):  # the disk may have failed: `discard` finds what is left
                    remove(name, folder)
                raise
        return Delivery(
            final=url_of_path(f"{path}/{product.name}"),
            temporary=name,
            device=copied.device,
            inode=copied.inode,
            files=copied.files,
            size=copied.size,
            checksums=copied.checksums,
        )

    def _publish(self, order: Order, delivery: Delivery, stop: Event) -> None:
        check(stop)
        final, path, name = _final(delivery)
        lost = DeliveryLost(f"the copy for {final!r} has gone: it is made again")
        with destination_faults(path):
            try:
                opened = self._folder(order, make=False)
            except FileNotFoundError:
                raise lost from None
        with destination_faults(path), held(opened) as folder:
            ours = _Ours(delivery, folder, stop)
            if not ours.is_at(name):
                if not ours.is_at(delivery.temporary):
                    raise lost
                _give_name(ours, name, final, order.overwrite)
            if ours.is_at(delivery.temporary):
                os.unlink(delivery.temporary, dir_fd=folder)
            os.fsync(folder)

    def _is_published(self, order: Order, delivery: Delivery, stop: Event) -> bool:
        _, path, name = _final(delivery)
        with destination_faults(path):
            try:
                opened = self._folder(order, make=False)
            except (FileNotFoundError, NotADirectoryError):
                return False
            with held(opened) as folder:
                return _Ours(delivery, folder, stop).is_at(name)

    def _discard(self, order: Order, stop: Event) -> None:
        prefix = f"{PREFIX}{order.transfer}-"
        with destination_faults(self._path(order)):
            try:
                folder = self._folder(order, make=False)
            except (FileNotFoundError, NotADirectoryError):
                return  # where we would not go, we have left nothing
            with held(folder):
                for name in _names(folder, prefix):
                    check(stop)
                    remove(name, folder)

    def _folder(self, order: Order, *, make: bool) -> int:
        """Open the destination's folder, going down by descriptors from the root."""
        here = self._root
        with Position(self._open_root()) as position:
            for part in self._order_parts(order):
                here /= part
                try:
                    if make:
                        make_folder(part, position.folder, self._modes.folder)
                    position.enter(part)
                except OSError as error:
                    error.filename = str(here)
                    raise
            return os.dup(position.folder)

    def _open_root(self) -> int:
        try:
            return os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise PassingFault(f"the folder {self._root} is not there: is it mounted?") from error

    def _path(self, order: Order) -> str:
        return "/".join([str(self._root).rstrip("/"), *self._order_parts(order)])

    def _order_parts(self, order: Order) -> list[str]:
        try:
            return self._parts(order.destination)
        except InvalidRequest as error:  # the allowed folder was another one when it was submitted
            raise FinalFault(str(error)) from error

    def _parts(self, destination: str) -> list[str]:
        """Give the names of the folders on the way from the root to the destination."""
        try:
            parts = [part for part in path_of_url(destination).split("/") if part]
            return _below(self._root, parts)
        except ValueError as error:
            raise InvalidRequest(
                f"destination_path {destination!r} {error}; give a folder at or below {url_of_path(str(self._root))}",
                field="destination_path",
            ) from None


def _below(root: Path, parts: list[str]) -> list[str]:
    top = list(root.parts[1:])
    if "." in parts or ".." in parts:
        raise ValueError("has a '.' or '..' component")
    if parts[: len(top)] != top:
        raise ValueError("is outside of the allowed folder")
    if any(part.startswith(PREFIX) for part in parts):
        raise ValueError(f"has a component that begins with {PREFIX}, the name of files under way")
    return parts[len(top) :]


def _final(delivery: Delivery) -> tuple[str, str, str]:
    """The path of what is delivered, and its folder and name."""
    final = path_of_url(delivery.final)
    path, _, name = final.rpartition("/")
    return final, path, name


def _temporary(order: Order) -> str:
    # Not made from the product's name, which may have all the 255 bytes a name can have.
    return f"{PREFIX}{order.transfer}-{order.attempt}"


class _Ours:
    """Recognises what an attempt has copied, under whatever name it is in ``folder``.

    A file system that is mounted anew may have another number: then its content tells.
    """

    def __init__(self, delivery: Delivery, folder: int, stop: Event) -> None:
        self.delivery = delivery
        self.folder = folder
        self._stop = stop
        self._mounted_anew = os.fstat(folder).st_dev != delivery.device
        self._known: dict[tuple[str, int], bool] = {}

    def is_at(self, name: str) -> bool:
        """Whether ``name`` is what was copied; a file must still have its size."""
        found = _status(name, self.folder)
        if found is None or not self._fits(found):
            return False
        if not self._mounted_anew:
            return (found.st_dev, found.st_ino) == (self.delivery.device, self.delivery.inode)
        key = (name, found.st_ino)
        if key not in self._known:
            self._known[key] = self._has_the_content(name)
        return self._known[key]

    def _fits(self, found: os.stat_result) -> bool:
        if self.delivery.is_directory:
            return stat.S_ISDIR(found.st_mode)
        return stat.S_ISREG(found.st_mode) and found.st_size == self.delivery.size

    def _has_the_content(self, name: str) -> bool:
        if self.delivery.is_directory:
            return manifest_of(name, self.folder, self._stop) == self.delivery.checksums["manifest-sha256"]
        return sha256_of(name, self.folder, self._stop) == self.delivery.checksums["sha256"]


def _give_name(ours: _Ours, name: str, final: str, overwrite: bool) -> None:
    folder, temporary = ours.folder, ours.delivery.temporary
    try:
        if ours.delivery.is_directory:
            rename_new(temporary, name, folder)
        else:
            _link_new(temporary, name, folder)
    except FileExistsError:
        if ours.is_at(name):
            return
        _refuse_existing(final, _status(name, folder), overwrite, ours.delivery.is_directory)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def _names(folder: int, prefix: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [each.name for each in entries if each.name.startswith(prefix)]


def _status(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _link_new(old: str, new: str, folder: int) -> None:
    """Give a file a second name that nobody else has; raises `FileExistsError`.

    A link can be told from a foreign file by its inode if the power fails before the first name is removed.
    A rename that doesn't replace does the same where there are no links.
    """
    try:
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        rename_new(old, new, folder)


def _refuse_hopeless(order: Order, product: Product, path: str, folder: int) -> None:
    """Say before any byte is copied what would be said after."""
    if product.name.startswith(PREFIX):
        raise FinalFault(f"product {product.id!r} begins with {PREFIX}, the name of files under way: rename it")
    if product.is_directory and order.checksum:
        raise FinalFault(
            f"product {product.id!r} is a folder, and a checksum is that of a single file: submit again without it"
        )
    found = _status(product.name, folder)
    if found:
        _refuse_existing(f"{path}/{product.name}", found, order.overwrite, product.is_directory)
    space = os.fstatvfs(folder)
    # Within one file system a copy may share the blocks of what it copies, and take no room at all.
    if space.f_bavail * space.f_frsize < product.size and product.root.stat().st_dev != os.fstat(folder).st_dev:
        raise full(path, product, space)


def _refuse_existing(final: str, found: os.stat_result | None, overwrite: bool, is_directory: bool) -> None:
    """Raise `FinalFault` unless what has the final name may be replaced: a file by a file, if the order says so."""
    if not overwrite:
        raise FinalFault(f"{final!r} exists already (give overwrite=true, or another destination)")
    if is_directory or (found and not stat.S_ISREG(found.st_mode)):
        raise FinalFault(
            f"{final!r} exists already, and overwrite replaces only a file by a file: "
            "remove it, or give another destination"
        )
