"""Files that grow, followed: one poll for all followers of a file, across the rotation of logs.

Positions count from where the file began when the watch did, and go on over rotations: what is renamed to ``stdout.1``
is a closed *generation*, behind which the new ``stdout`` begins.

Nothing tells which file an agent read from: between any two of its answers all may have been renamed. So each read
begins a little before what is new, and the folder is listed after it. What was read is believed only if that little is
what it was, and the listing shows the same rotated files as before; else it is thrown away, and found out from listing
and contents under which name the file is now. From there all younger files are walked through to the one that is
written to, so that none is left out or given twice.
"""

from __future__ import annotations

import posixpath
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakValueDictionary

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub.errors import UpstreamFault
from datahub.kit.aio import Task as Running
from datahub.kit.aio import sleep
from datahub.sandboxes.agents import PAGE, Files, NoFile
from datahub.sandboxes.rotation import OLDEST, Listing, name_of, shifts

__all__ = ["Pace", "Watch", "Watches"]

log = Logger()

KNOWN: Final = 1024
WINDOW: Final = 256 * 1024
# So often a read is repeated at once because files were renamed meanwhile; then at the next poll.
TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: between two polls, between two looks whether the task has ended, how long faults are borne.

    ``settle`` is how long a rotation may take that is seen half done.
    """

    poll: float = 1.0
    ended: float = 5.0
    patience: float = 30.0
    settle: float = 5.0


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in a log: the ``offset`` in the file of ``age``, and the bytes just before it."""

    age: int
    offset: int
    known: bytes = b""


@dataclass(frozen=True, slots=True)
class _Found:
    """What was read: where it begins, by how many rotations the listing before it differs from the one before that.

    ``cut``: the file was emptied where it is, and begins anew.
    """

    spot: _Spot
    data: bytes
    shift: int = 0
    cut: bool = False


class _Lost(UpstreamFault):
    """What comes next is not there any more."""


class _Unsettled(Exception):
    """The files are being renamed or copied right now."""


class Watches:
    """The files that are followed now; a watch that nobody holds is forgotten."""

    def __init__(self, pace: Pace, clock: IReactorTime) -> None:
        self._pace = pace
        self._clock = clock
        self._watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()

    def watch(self, files: Files, path: str, ended: Callable[[], Awaitable[bool]]) -> Watch:
        """The watch of a file, shared by all who follow it."""
        key = f"{files.key} {path}"
        watch = self._watches.get(key)
        if watch is None or watch.done:
            watch = self._watches[key] = Watch(files, path, ended, self._pace, self._clock)
        return watch


class Watch:
    """One file: its newest bytes, who waits for more, and where older ones are to be had."""

    def __init__(
        self, files: Files, path: str, ended: Callable[[], Awaitable[bool]], pace: Pace, clock: IReactorTime
    ) -> None:
        self.head = 0
        self.turns = 0
        """Grows whenever the files were renamed, or the one that is written to was emptied."""
        self._files = files
        self._path = path
        self._pace = pace
        self._clock = clock
        self._lock = DeferredLock()
        self._listing: Listing | None = None
        self._spot = _Spot(0, 0)
        # The generation that is written to, and where each began as far as it is known.
        self._live = 0
        self._bases = {0: 0}
        self._window = b""
        self._spent = False
        self._unsettled: float | None = None
        self._followers = 0
        self._over = False
        self._fault: UpstreamFault | None = None
        self._waiting: list[Deferred[None]] = []
        self._demand: Deferred[None] | None = None
        self._running: Running | None = None
        self._ended = ended
        self._task_over = False
        self._asked: float | None = None
        self._failing: float | None = None

    @property
    def done(self) -> bool:
        """Whether nothing more will come of it."""
        return self._over or self._fault is not None

    async def present(self) -> int:
        """The position at which the file that is written to begins; raises what `Files` does."""
        begun = self._clock.seconds()
        while (passed := self._clock.seconds() - begun) < self._pace.patience:
            more = None
            try:
                more = await self._look()
            except NoFile:
                # Between renaming a file and making it anew there is none.
                if passed >= self._pace.settle:
                    raise
            if more is None:
                await sleep(self._pace.poll, self._clock)
            elif self._spot.age == 0 or not more:
                return self._bases.get(self._live, self.head)
        raise UpstreamFault(f"{self._files.who} rotates the file faster than it can be read")

    async def steady(self, turns: int) -> bool:
        """Whether the files still have the names that they had when `turns` was that."""
        return await self._look() is not None and self.turns == turns

    async def follow(self, position: int) -> AsyncGenerator[bytes, None]:
        """All bytes from ``position`` on, until the task has ended and its file is read to the end.

        Raises `UpstreamFault` if the file can't be read on, so that nobody takes a part for the whole.
        """
        self._followers += 1
        if self._running is None:
            self._running = Running(f"follow {self._path}", self._run())
        try:
            while True:
                if position < self.head:
                    near = position >= self.head - len(self._window)
                    piece = self._window[position - self.head :] if near else await self._older(position)
                    position += len(piece)
                    yield piece
                elif self._over:
                    return
                else:
                    await self._more()
        except _Lost:
            log.warn("{who} has not kept what comes next in {path}", who=self._files.who, path=self._path)
            raise
        finally:
            self._followers -= 1
            running = self._running
            if not self._followers and running is not None:
                self._running = None
                await running.stop()

    async def _more(self) -> None:
        if self._fault is not None:
            raise self._fault
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        if self._demand is not None:
            demand, self._demand = self._demand, None
            demand.callback(None)
        await waiting

    async def _older(self, position: int) -> bytes:
        """A page of what is behind the window; afterwards it is looked whether that was the right file."""
        begun = self._clock.seconds()
        while self._clock.seconds() - begun < self._pace.patience:
            turns, more = self.turns, None
            name, offset, room = self._place(position)
            data = await self._piece(name, offset, min(PAGE, room))
            with suppress(NoFile):
                more = await self._look()
            if more is None:
                await sleep(self._pace.poll, self._clock)
            elif turns == self.turns:
                if data:
                    return data
                break
        raise self._lost()

    def _place(self, position: int) -> tuple[str, int, int]:
        """Under which name the byte at ``position`` is to be had, at which offset, and how many follow it there."""
        began = [each for each in self._bases.items() if each[1] <= position]
        if not began:
            raise self._lost()
        generation, base = max(began)
        end = min((each for each in self._bases.values() if each > position), default=self.head)
        return name_of(self._path, self._live - generation), position - base, end - position

    def _lost(self) -> UpstreamFault:
        return _Lost(f"{self._files.who} has not kept the part of the file that comes next")

    async def _run(self) -> None:
        try:
            await self._poll()
        except CancelledError:
            raise
        except Exception:
            # Nobody is to wait for ever for what will not come.
            self._fault = UpstreamFault("the hub can't follow this file any more")
            self._wake(more=False)
            raise

    async def _poll(self) -> None:
        """Poll while anybody waits at the end, until the task has ended or the file is lost."""
        while not self.done:
            await self._wanted()
            more = None
            try:
                more = await self._look()
                self._failing = None
                if not more and not self._task_over and self._due():
                    self._task_over = await self._ended()
                    continue
            except (UpstreamFault, NoFile) as fault:
                self._bear(fault)
            if self._task_over and more is False:
                self._over = True
            self._wake(more=False)
            if not (more or self.done):
                await sleep(self._pace.poll, self._clock)

    def _due(self) -> bool:
        """Whether it is time to ask again if the task has ended."""
        now = self._clock.seconds()
        due = self._asked is None or now - self._asked >= self._pace.ended
        self._asked = now if due else self._asked
        return due

    def _bear(self, fault: UpstreamFault | NoFile) -> None:
        """Take a fault for one that passes, for a time; a file that was removed after its task's end is at its end."""
        now = self._clock.seconds()
        self._failing = now if self._failing is None else self._failing
        if isinstance(fault, NoFile) and self._task_over:
            self._over = True
        elif isinstance(fault, _Lost):
            self._fault = fault
        elif now - self._failing >= self._pace.patience:
            self._fault = UpstreamFault(f"{self._files.who} does not give the file any more: {fault}")

    async def _wanted(self) -> None:
        if not self._waiting:
            self._demand = Deferred()
            await self._demand

    def _wake(self, more: bool) -> None:
        if more or self.done:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)

    async def _look(self) -> bool | None:
        """Read on at the head, if there is more; whether there was, None if that can't be told just now."""
        await self._lock.acquire()
        try:
            before, more = self.head, None
            with suppress(_Unsettled):
                if await self._read_on():
                    self._unsettled, more = None, self.head > before
        finally:
            self._lock.release()
        self._wake(bool(more))
        return more

    async def _read_on(self) -> bool:
        """Read until the listing is the same before and after; False if it never is."""
        listing = self._listing or await self._begin()
        for _ in range(TRIES):
            found: _Found | Exception
            try:
                found = await self._find(listing)
            except (NoFile, _Lost, _Unsettled) as error:
                found = error
            after = await self._list()
            if after.rotated == listing.rotated:
                if isinstance(found, Exception):
                    raise found
                self._keep(found, listing)
                return True
            listing = after
        return False

    async def _begin(self) -> Listing:
        """Begin at the present end."""
        for _ in range(TRIES):
            listing = await self._list()
            if listing.gaps:
                self._settle()
            size = await self._files.size(self._path)
            count = min(KNOWN, size)
            known = await self._files.read(self._path, size - count, count) if count else b""
            if len(known) == count and await self._list() == listing:
                self._listing, self._spot, self.head = listing, _Spot(0, size, known), size
                return listing
        raise _Unsettled

    async def _list(self) -> Listing:
        return Listing.of(self._path, await self._files.browse(posixpath.dirname(self._path)))

    async def _find(self, listing: Listing) -> _Found:
        """What comes next if the files are what ``listing`` tells.

        Raises `NoFile` if none is written to, `_Unsettled`, and `UpstreamFault` if it is not there any more.
        """
        spot, before = self._spot, self._listing or listing
        if listing.gaps > before.gaps:
            self._settle()
        for shift, told in shifts(before, listing):
            age = spot.age + shift
            data = await self._continued(spot, age) if told or spot.known else None
            if data is not None:
                return await self._onwards(replace(spot, age=age), data, shift)
            if told and self._spent and 0 < age == len(listing.rotated) + 1:
                # It was read to its end, and removed as the oldest: it goes on in the next.
                return await self._onwards(_Spot(age, 0), b"", shift, least=age - 1)
        return await self._anew(listing)

    async def _continued(self, spot: _Spot, age: int) -> bytes | None:
        """What the file of ``age`` has behind ``spot``; None if that is not where the spot is."""
        start = spot.offset - len(spot.known)
        data = await self._piece(name_of(self._path, age), start)
        if data is None or data[: len(spot.known)] != spot.known:
            return None
        return data[len(spot.known) :]

    async def _piece(self, name: str, offset: int, length: int = PAGE) -> bytes | None:
        try:
            return await self._files.read(name, offset, length)
        except NoFile:
            return None

    async def _onwards(self, spot: _Spot, data: bytes, shift: int, least: int | None = None) -> _Found:
        """``data`` from ``spot`` on; where that file has ended, the next one that has anything in it.

        If none has, it is at ``spot``, or at the beginning of the file of age ``least``.
        """
        if data:
            return _Found(spot, data, shift)
        for age in range(spot.age - 1, -1, -1):
            data = await self._piece(name_of(self._path, age), 0) or b""
            if data and not age and spot.known:
                if await self._continued(spot, 0) is not None:
                    # It has what the file before it had: that is a copy, and this is to be emptied yet.
                    self._settle()
                # What was read before may be what was there before it was emptied.
                data = await self._piece(self._path, 0) or b""
            if data:
                return _Found(_Spot(age, 0), data, shift)
        return _Found(spot if least is None else _Spot(least, 0), b"", shift)

    async def _anew(self, listing: Listing) -> _Found:
        """The file's new beginning, if it was emptied where it is."""
        if not listing.live:
            raise NoFile("Not found")
        if self._spot.age or self._listing is None or self._listing.rotated != listing.rotated:
            raise self._lost()
        return _Found(_Spot(0, 0), await self._piece(self._path, 0) or b"", cut=True)

    def _settle(self) -> None:
        """Raise `_Unsettled`, unless it has been so for long: then it stays as it is."""
        now = self._clock.seconds()
        self._unsettled = now if self._unsettled is None else self._unsettled
        if now - self._unsettled < self._pace.settle:
            raise _Unsettled

    def _keep(self, found: _Found, listing: Listing) -> None:
        """Go on to what was found."""
        before, self._listing = self._listing, listing
        self._live += found.shift
        if found.cut:
            log.warn(
                "{path} was emptied, or replaced: what was written since the last look is not had", path=self._path
            )
            self._live += 1
            self._bases.clear()
        if found.cut or before is None or before.rotated != listing.rotated:
            self.turns += 1
        spot, data = found.spot, found.data
        self._bases.setdefault(self._live - spot.age, self.head)
        self._bases = {each: base for each, base in self._bases.items() if self._live - each <= OLDEST}
        self._spot = _Spot(spot.age, spot.offset + len(data), (spot.known + data)[-KNOWN:])
        self._spent = not data
        self.head += len(data)
        self._window = (self._window + data)[-WINDOW:]
