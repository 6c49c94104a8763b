"""An archive that is a folder of this host: a product is a file or a folder below it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event

from datahub.archive import Entry, Facts, Faulty, Product, check_product_id
from datahub.errors import FinalFault, PassingFault, StartError
from datahub.files import Position, check, held, path_of_url, user_name
from datahub.kit.threads import Pool, stoppable

__all__ = ["LocalArchive"]

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PIN = os.O_PATH | os.O_CLOEXEC
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
}


class LocalArchive:
    """Products below ``root``, a path or a ``file://`` URL.

    What is opened is first pinned (O_PATH: no FIFO blocks, no device notices), then the kernel is asked where
    the pinned file really lies, and only then is that very file opened: no renaming in between leads outside.
    While walking, the names of the folders on the way to the present one are in memory, nothing else. ``name`` is what
    texts for people call it.
    """

    def __init__(self, root: str | Path, pool: Pool, name: str = "the archive") -> None:
        self._root = _root_path(root)
        self._name = name
        self._pool = pool

    async def locate(self, product_id: str) -> Product:
        """Find a product and count what is in it."""
        check_product_id(product_id)
        return await stoppable(self._pool, partial(self._locate, product_id))

    def walk(self, product: Product) -> Iterator[Entry]:
        """List a product lazily; the folders' names are sorted as if they ended in '/', as their files' paths are."""
        top = _Place(product.id)
        with self._pinned(str(product.root), top) as pin:
            if not product.is_directory:
                yield self._entry(pin, top)
                return
            yield from self._walk(pin, top)

    def open(self, product: Product, entry: Entry) -> int:
        """Open a file of the product for reading."""
        place = _Place(product.id, entry.path)
        path = f"{product.root}/{entry.path}" if entry.path else str(product.root)
        with self._pinned(path, place) as pin, _faults(place):
            _require_kind(pin, stat.S_IFREG, place)
            return _reopened(pin)

    def take_up(self, name: str) -> Facts:
        """Say which file of this host ``name`` is now, proven to be readable and inside the archive; blocking.

        Raises `InvalidRequest`, `FinalFault` if it is not there or is no file, `PassingFault` if the archive is away,
        `Faulty` if it is there, and the disk fails at this file.
        """
        check_product_id(name)
        try:
            return self._taken_up(name)
        except Faulty:
            self._require_readable_root()
            raise

    def _taken_up(self, name: str) -> Facts:
        place = _Place(name)
        with self._pinned(f"{self._root}/{name}", place, missing=FinalFault) as pin, _faults(place):
            if stat.S_ISDIR(os.fstat(pin).st_mode):
                raise FinalFault(f"{name!r} is a folder, and a cart takes files: name each, as '{name}/a.txt'")
            _require_kind(pin, stat.S_IFREG, place)
            os.close(_reopened(pin))
            return Facts.of(_path_of(pin), os.fstat(pin))

    def _locate(self, product_id: str, stop: Event) -> Product:
        path = f"{self._root}/{product_id}"
        with self._pinned(path, _Place(product_id), missing=FinalFault) as pin:
            found = Product(
                id=product_id,
                name=product_id.rpartition("/")[2],
                root=Path(_path_of(pin)),
                is_directory=stat.S_ISDIR(os.fstat(pin).st_mode),
                files=0,
                size=0,
            )
        return self._counted(found, stop)

    def _counted(self, product: Product, stop: Event) -> Product:
        files = size = 0
        for entry in self.walk(product):
            check(stop)
            if not entry.is_directory:
                files += 1
                size += entry.size
        return Product(product.id, product.name, product.root, product.is_directory, files, size)

    def _walk(self, pin: int, top: _Place) -> Iterator[Entry]:
        with _faults(top):
            _require_kind(pin, stat.S_IFDIR, top)
            position = Position(_reopened(pin))
        with position:
            levels = [_sorted_names(position.folder, top)]
            while levels:
                name = next(levels[-1], None)
                if name is None:
                    levels.pop()
                    if levels:
                        top = top.above()
                        with _faults(top):
                            position.leave()
                    continue
                place = top.below(os.fsdecode(name.rstrip(b"/")))
                entry = self._listed(position.folder, place, name.endswith(b"/"))
                yield entry
                if entry.is_directory:
                    top = place
                    with _faults(top):
                        position.enter(top.name)
                    levels.append(_sorted_names(position.folder, top))

    def _listed(self, folder: int, place: _Place, was_directory: bool) -> Entry:
        with _faults(place):
            found = os.stat(place.name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode) != was_directory:
                raise PassingFault(f"{place} changed while it was listed")
            if stat.S_ISLNK(found.st_mode):
                return self._linked(folder, place)
            if was_directory or stat.S_ISREG(found.st_mode):
                _require_access(folder, place, was_directory)
                return _entry_of(found, place)
            raise FinalFault(_unfit(place, found.st_mode))

    def _linked(self, folder: int, place: _Place) -> Entry:
        try:
            pin = os.open(place.name, _PIN, dir_fd=folder)
        except FileNotFoundError:
            raise FinalFault(
                f"{place} is a symbolic link to nothing: remove it, or put a file there, and submit again"
            ) from None
        with held(pin):
            self._require_inside(pin, folder, place)
            if stat.S_ISDIR(os.fstat(pin).st_mode):
                raise FinalFault(
                    f"{place} is a symbolic link to a folder, and only links to files are delivered: "
                    "put the folder itself there, and submit again"
                )
            _require_access(folder, place, False)
            return self._entry(pin, place)

    def _entry(self, pin: int, place: _Place) -> Entry:
        with _faults(place):
            _require_kind(pin, stat.S_IFREG, place)
            os.close(_reopened(pin))
            return _entry_of(os.fstat(pin), place)

    @contextmanager
    def _pinned(
        self, path: str, place: _Place, missing: type[FinalFault | PassingFault] = PassingFault
    ) -> Iterator[int]:
        """Pin what lies at ``path``, proven to be inside the archive."""
        with _faults(place):
            try:
                folder, pin = _pin(path)
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                text = f"{place} is not in {self._name}" if missing is FinalFault else _vanished(place)
                raise missing(text) from None
            with held(folder), held(pin):
                self._require_inside(pin, folder, place)
                yield pin

    def _require_inside(self, pin: int, folder: int, place: _Place) -> None:
        root = self._require_root()
        if not _is_inside(_real_path(pin, folder, place.name), root):
            raise FinalFault(
                f"{place} is a symbolic link out of {self._name}, which is never followed: "
                f"put the file itself into {self._name}, and submit again"
            )

    def _require_root(self) -> str:
        try:
            with held(os.open(self._root, _PIN | os.O_DIRECTORY)) as pin:
                return _path_of(pin)
        except OSError as error:
            raise self._away(error) from error

    def _require_readable_root(self) -> None:
        try:
            with os.scandir(self._root) as entries:
                next(entries, None)
        except OSError as error:
            raise self._away(error) from error

    def _away(self, error: OSError) -> PassingFault:
        text = f"{self._name}'s folder {self._root} can't be reached ({error.strerror}): is it mounted?"
        return PassingFault(text)


class _Place:
    """A file or folder of a product, as a text for people names it."""

    __slots__ = ("name", "path", "product")

    def __init__(self, product: str, path: str = "") -> None:
        self.product = product
        self.path = path
        self.name = (path or product).rpartition("/")[2]

    def __str__(self) -> str:
        return f"product {self.product!r}: {self.path!r}" if self.path else f"product {self.product!r}"

    def below(self, name: str) -> _Place:
        return _Place(self.product, f"{self.path}/{name}" if self.path else name)

    def above(self) -> _Place:
        return _Place(self.product, self.path.rpartition("/")[0])


def _root_path(root: str | Path) -> str:
    try:
        path = path_of_url(root) if isinstance(root, str) and root.startswith("file:") else os.fspath(root)
    except ValueError as error:
        raise StartError(f"archive.url: {root!r} {error}") from None
    if not path.startswith("/"):
        raise StartError(f"archive.url: {root!r} is not absolute: give file:///folder")
    return path.rstrip("/") or "/"


def _is_inside(path: str, root: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")


def _pin(path: str) -> tuple[int, int]:
    """Pin the folder and the file or folder in it that ``path`` names; raises `OSError`."""
    above, name = os.path.split(path)
    folder = _pin_folder(above)
    try:
        return folder, os.open(name, _PIN, dir_fd=folder)
    except OSError:
        os.close(folder)
        raise


def _pin_folder(path: str) -> int:
    try:
        return os.open(path, _PIN | os.O_DIRECTORY)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    # The kernel takes no path over 4,095 bytes at once.
    folder = os.open("/", _PIN | os.O_DIRECTORY)
    for part in filter(None, path.split("/")):
        with held(folder):
            folder = os.open(part, _PIN | os.O_DIRECTORY, dir_fd=folder)
    return folder


def _path_of(file: int) -> str:
    return os.readlink(f"/proc/self/fd/{file}")  # noqa: PTH115  # for each file: a Path costs as much again


def _real_path(pin: int, folder: int, name: str) -> str:
    """Ask the kernel where the pinned file really lies."""
    try:
        return _path_of(pin)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    # Too deep for the kernel to tell; but what is no link lies where its folder lies.
    here = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not os.path.samestat(here, os.fstat(pin)):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return _real_folder(folder) + "/" + name


def _real_folder(folder: int) -> str:
    """Give the real path of the nearest folder above that is short enough to be told."""
    place = os.dup(folder)
    while True:
        with held(place):
            try:
                return _path_of(place)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
            place = os.open("..", _PIN | os.O_DIRECTORY, dir_fd=place)


def _reopened(pin: int) -> int:
    return os.open(f"/proc/self/fd/{pin}", _READ)


def _sorted_names(folder: int, place: _Place) -> Iterator[bytes]:
    """Give the names in a folder, those of folders with a '/' behind: so sorted, files come in the order of paths."""
    with _faults(place), os.scandir(folder) as entries:
        names = [os.fsencode(each.name) + b"/" * each.is_dir(follow_symlinks=False) for each in entries]
    names.sort()
    return iter(names)


def _entry_of(found: os.stat_result, place: _Place) -> Entry:
    is_directory = stat.S_ISDIR(found.st_mode)
    size = 0 if is_directory else found.st_size
    return Entry(place.path, size, found.st_mtime_ns, found.st_ino, found.st_dev, is_directory)


def _require_kind(pin: int, kind: int, place: _Place) -> None:
    mode = os.fstat(pin).st_mode
    if stat.S_IFMT(mode) != kind:
        raise FinalFault(_unfit(place, mode))


def _unfit(place: _Place, mode: int) -> str:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return f"{place} is {kind}, and only files and folders are delivered: remove or replace it, and submit again"


def _require_access(folder: int, place: _Place, is_directory: bool) -> None:
    wanted = os.R_OK | os.X_OK if is_directory else os.R_OK
    if not os.access(place.name, wanted, dir_fd=folder, effective_ids=True):
        os.close(os.open(place.name, _READ, dir_fd=folder))  # raises the reason, which may also be a failing disk
        if is_directory:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _vanished(place: _Place) -> str:
    return f"{place} vanished while it was read"


@contextmanager
def _faults(place: _Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _fault(error, place) from error


def _fault(error: OSError, place: _Place) -> FinalFault | PassingFault:
    if error.errno in (errno.EACCES, errno.EPERM):
        return FinalFault(f"{place} can't be read by the user {user_name()}: permit it to, and submit again")
    if error.errno == errno.ELOOP:
        return FinalFault(f"{place} is a symbolic link in a circle: remove it, and submit again")
    if error.errno == errno.ENAMETOOLONG:
        return FinalFault(f"{place}: its name is too long for this host's file systems")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return PassingFault(_vanished(place))
    if error.errno == errno.EIO:
        return Faulty(f"{place} can't be read ({error.strerror}): does its disk fail?")
    return PassingFault(f"{place} can't be read now: {error.strerror}")
