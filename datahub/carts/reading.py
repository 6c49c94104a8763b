"""The bytes of a cart's tar, any part of it, as pieces to be sent; what lies before the part is never read."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from twisted.internet.interfaces import IReactorTime

from datahub.archive import Facts
from datahub.carts import tables
from datahub.carts.model import STAGED, Cart, CartFile
from datahub.carts.tar import Layout, header, padding
from datahub.errors import Unavailable
from datahub.files import held
from datahub.kit.sharing import Shared
from datahub.kit.threads import Pool, taking
from datahub.store import Store
from datahub.web.sending import FilePart, Piece, SourceChanged

__all__ = ["Layouts", "Notice", "Reading", "close_all", "content", "open_file", "require_unchanged"]

WINDOW: Final = 500
"""The most files whose rows are in memory at once for one download, and the fewest: 1 KB each."""
FEWEST: Final = 16
AHEAD: Final = 2 * 1024 * 1024
"""Bytes of the tar for which rows are read at once, unless that were fewer or more of them."""
SMALL: Final = 64 * 1024
"""Files up to here are read with their headers, together with their neighbours."""
PASSING: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
GATHERED: Final = 512 * 1024
OPEN: Final = 6
"""Larger files that are open at once for one download, twice."""
ROOM: Final = 64 * 1024 * 1024
"""What layouts may take in memory together."""


class Layouts:
    """The layouts that were asked for lately: they cost a look at each file's row."""

    def __init__(self, store: Store, pool: Pool, clock: IReactorTime) -> None:
        self._store = store
        self._pool = pool
        self._clock = clock
        self._making: dict[tuple[str, str], Shared[Layout]] = {}
        self._kept: OrderedDict[tuple[str, str], Layout] = OrderedDict()
        self._taken = 0

    async def of(self, cart: Cart, top: str) -> Layout:
        """The layout of a cart that is ready, with all files in the folder ``top``."""
        key = cart.identity or "", top
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        # One is made for all who ask meanwhile: each would cost as much.
        making = self._making.setdefault(key, Shared(partial(self._make, cart, top, key), 0, self._clock))
        return await making.get()

    async def _make(self, cart: Cart, top: str, key: tuple[str, str]) -> Layout:
        try:
            made = await self._made(cart, top)
        finally:
            # Here, as all who asked may have left.
            del self._making[key]
        self._keep(key, made)
        return made

    def _keep(self, key: tuple[str, str], layout: Layout) -> None:
        if key in self._kept:
            return
        self._kept[key] = layout
        self._taken += layout.weight
        while self._taken > ROOM and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._taken -= dropped.weight

    async def _made(self, cart: Cart, top: str) -> Layout:
        layout = Layout(top, cart.identity or "")
        first = 0
        while True:
            look = partial(tables.outline, number=cart.id, first=first, count=4 * WINDOW)
            files = await self._store.read("lay out a cart", look)
            if not files:
                break
            await self._pool.run(layout.add_all, files)
            first = files[-1][0] + 1
        notice = Notice.of(cart)
        if notice is not None:
            layout.add(cart.files, notice.path, len(notice.body), 0)
        return layout


@dataclass(frozen=True, slots=True)
class Notice:
    """The list of what is missing in a partial cart, which is the last member of its tar."""

    path: str
    body: bytes

    @classmethod
    def of(cls, cart: Cart) -> Notice | None:
        """What a cart lacks, if it does; no file of it has that name, see `datahub.carts.pipeline`."""
        if cart.missing is None:
            return None
        name = cart.missing.partition("\n")[0].removeprefix("# ").partition(":")[0]
        return cls(name, cart.missing.encode())

    @property
    def sha256(self) -> str:
        """Its digest."""
        return hashlib.sha256(self.body).hexdigest()

    def header(self, top: str) -> bytes:
        """What stands before it in the tar: it has no time of its own."""
        return header(f"{top}/{self.path}", len(self.body), 0)


class Reading:
    """The bytes from ``first`` up to, but without, ``end`` of a cart's tar."""

    def __init__(self, cart: Cart, layout: Layout, first: int, end: int) -> None:
        self._cart = cart
        self._layout = layout
        self._first = first
        self._end = end

    async def batches(self, store: Store, pool: Pool) -> AsyncGenerator[list[Piece], None]:
        """The pieces in order, few at a time; raises `SourceChanged` for a file that has changed, or is gone."""
        layout, index = self._layout, self._layout.member_at(self._first)
        stop = min(layout.member_at(self._end - 1) + 1, len(layout.numbers)) if self._end > self._first else index
        while index < stop:
            files = await self._window(store, index, stop)
            begun = index
            while index < begun + len(files):
                some = partial(self._pieces, files[index - begun :], index)
                pieces, index = await taking(pool, some, lambda made: close_all(made[0]))
                yield pieces
        if self._end > layout.size:
            yield [_cut(layout.end, layout.size, self._first, self._end)]

    async def _window(self, store: Store, index: int, stop: int) -> list[CartFile | None]:
        """The files of the next members, None for the notice of what is missing."""
        layout = self._layout
        ahead = layout.member_at(layout.starts[index] + AHEAD) - index
        numbers = layout.numbers[index : min(stop, index + min(max(ahead, FEWEST), WINDOW))]
        look = partial(tables.window, number=self._cart.id, first=numbers[0], count=numbers[-1] - numbers[0] + 1)
        rows = {each.number: each for each in await store.read("read a cart", look) if each.status == STAGED}
        found: list[CartFile | None] = []
        for number in numbers:
            if number not in rows and number != self._cart.files:
                raise SourceChanged(f"cart {self._cart.uid} is gone")
            found.append(rows.get(number))
        return found

    def _pieces(self, files: Sequence[CartFile | None], index: int) -> tuple[list[Piece], int]:
        """Pieces of some of ``files``, of which the first is member ``index``, and the index of the next; blocking."""
        pieces: list[Piece] = []
        gathered = bytearray()
        try:
            for number, file in enumerate(files, index):
                if len(gathered) >= GATHERED or len(pieces) >= 2 * OPEN:
                    return _with(pieces, gathered), number
                for piece in self._member(number, file):
                    if isinstance(piece, bytes):
                        gathered += piece
                    else:
                        pieces += [bytes(gathered), piece] if gathered else [piece]
                        gathered.clear()
        except BaseException:
            close_all(pieces)
            raise
        return _with(pieces, gathered), index + len(files)

    def _member(self, index: int, file: CartFile | None) -> Iterator[Piece]:
        """One member, cut to what is wanted."""
        start, first, end = self._layout.starts[index], self._first, self._end
        if file is None:
            yield _cut(self._notice(), start, first, end)
            return
        size = file.size or 0
        head = header(f"{self._layout.top}/{file.path}", size, file.mtime_ns or 0)
        yield _cut(head, start, first, end)
        start += len(head)
        low, high = max(first - start, 0), min(end - start, size)
        if low < high:
            yield content(file, low, high)
        yield _cut(padding(size), start + size, first, end)

    def _notice(self) -> bytes:
        notice = Notice.of(self._cart)
        if notice is None:
            raise SourceChanged(f"cart {self._cart.uid} is gone")
        return notice.header(self._layout.top) + notice.body + padding(len(notice.body))


def content(file: CartFile, low: int, high: int) -> Piece:
    """The bytes of a staged file from ``low`` to ``high``: read, if they are few; blocking. Raises `SourceChanged`."""
    if file.facts is None:
        raise SourceChanged(f"{file.path!r} is not here any more")
    opened = open_file(file.path, file.facts)
    if high - low > SMALL:
        return FilePart(opened, low, high, partial(require_unchanged, opened, file.path, file.facts))
    with held(opened):
        data = os.pread(opened, high - low, low)
        require_unchanged(opened, file.path, file.facts)
    if len(data) != high - low:
        raise _changed(file.path)
    return data


def close_all(pieces: Sequence[Piece]) -> None:
    """Let go of the files that ``pieces`` are to be read from."""
    for each in pieces:
        if isinstance(each, FilePart):
            each.close()


def _with(pieces: list[Piece], gathered: bytearray) -> list[Piece]:
    return [*pieces, bytes(gathered)] if gathered else pieces


def _cut(data: bytes, at: int, first: int, end: int) -> bytes:
    """What of ``data``, which lies at the offset ``at``, is between ``first`` and ``end``."""
    return data[max(0, first - at) : max(0, end - at)]


def open_file(path: str, facts: Facts) -> int:
    """Open the very file that was taken up, unchanged; raises `SourceChanged`, naming it by its ``path`` in the cart.

    What may pass, such as too many open files, raises `Unavailable`.
    It is looked at before it is opened: what may lie there now (a device, a link to elsewhere) notices nothing.
    """
    try:
        with held(os.open(facts.place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as pin:
            found = os.fstat(pin)
            if not stat.S_ISREG(found.st_mode) or not facts.hold(found):
                raise _changed(path)
            return os.open(f"/proc/self/fd/{pin}", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in PASSING:
            raise Unavailable(f"{path!r} can't be read now: {error.strerror}") from error
        raise SourceChanged(f"{path!r} can't be read any more: {error.strerror}") from error


def require_unchanged(opened: int, path: str, facts: Facts) -> None:
    """Raise `SourceChanged` if an open file is not what it was when it was taken up."""
    if not facts.hold(os.fstat(opened)):
        raise _changed(path)


def _changed(path: str) -> SourceChanged:
    return SourceChanged(
        f"{path!r} has changed in the archive since the cart was made: delete the cart, and make it anew"
    )
