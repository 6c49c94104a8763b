"""Files that grow, followed: one poll for all followers of a file, across the rotation of logs.

Positions count from where the file began when the watch did, and go on over rotations: what `logrotate` renames to
``stdout.1`` is a closed *generation*, behind which the new ``stdout`` begins. That it was renamed is seen by reading
a little of what is known already before each new part: if that has changed, this is another file.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from datahub.errors import UpstreamFault
from datahub.kit.aio import Task as Running
from datahub.kit.aio import sleep
from datahub.sandboxes.agents import PAGE, Files, NoFile

__all__ = ["Pace", "Watch", "Watches"]

KNOWN: Final = 1024
WINDOW: Final = 256 * 1024
OLDEST: Final = 32


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: between two polls, between two looks whether the task has ended, and how long faults are borne."""

    poll: float = 1.0
    ended: float = 5.0
    patience: float = 30.0


@dataclass(frozen=True, slots=True)
class _Generation:
    """A file from position ``base`` on; ``end`` None while it still has its first name."""

    base: int
    end: int | None = None


class Watches:
    """The files that are followed now."""

    def __init__(self, pace: Pace, clock: IReactorTime) -> None:
        self._pace = pace
        self._clock = clock
        self._watches: dict[str, Watch] = {}

    async def watch(self, files: Files, path: str, ended: Callable[[], Awaitable[bool]]) -> Watch:
        """The watch of a file, shared by all who follow it; who asked must `Watch.leave` it."""
        key = f"{files.key} {path}"
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = Watch(files, path, ended, self._pace, self._clock)
        watch.followers += 1
        watch.left = lambda: self._watches.pop(key, None) if self._watches.get(key) is watch else None
        try:
            await watch.begin()
        except BaseException:
            await watch.leave()
            raise
        return watch


class Watch:
    """One file: its newest bytes, who waits for more, and where older ones are to be had."""

    def __init__(
        self, files: Files, path: str, ended: Callable[[], Awaitable[bool]], pace: Pace, clock: IReactorTime
    ) -> None:
        self.followers = 0
        self.left: Callable[[], object] = lambda: None
        self.head = 0
        self._files = files
        self._path = path
        self._pace = pace
        self._clock = clock
        self._lock = DeferredLock()
        self._generations = [_Generation(0)]
        self._turns = 0
        self._known = b""
        self._before: tuple[int, bytes] = (0, b"")
        self._window = b""
        self._begun = False
        self._over = False
        self._fault: UpstreamFault | None = None
        self._waiting: list[Deferred[None]] = []
        self._demand: Deferred[None] | None = None
        self._running: Running | None = None
        self._ended = ended
        self._task_over = False
        self._asked: float | None = None
        self._failing: float | None = None

    async def begin(self) -> None:
        """Find the present end; raises what `Files` does."""
        await self._lock.acquire()
        try:
            if not self._begun:
                self.head = await self._files.size(self._path)
                count = min(KNOWN, self.head)
                self._known = await self._files.read(self._path, self.head - count, count) if count else b""
                self._begun = True
                self._running = Running(f"follow {self._path}", self._run())
        finally:
            self._lock.release()

    @property
    def here(self) -> int:
        """The position of the file's present beginning."""
        return self._generations[-1].base

    async def leave(self) -> None:
        """One follower less; the last one ends the watch."""
        self.followers -= 1
        if self.followers == 0:
            self.left()
            if self._running is not None:
                await self._running.stop()

    async def follow(self, position: int) -> AsyncGenerator[bytes, None]:
        """All bytes from ``position`` on, until the task has ended and its file is read to the end.

        Raises `UpstreamFault` if the file can't be read on, so that nobody takes a part for the whole.
        """
        while True:
            if position >= self.head:
                if self._over:
                    return
                await self._more()
                continue
            near = position >= self.head - len(self._window)
            piece = self._window[position - self.head :] if near else await self._older(position)
            position += len(piece)
            yield piece

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
        for _ in range(OLDEST):
            turns = self._turns
            name, generation = self._place(position)
            end = self.head if generation.end is None else generation.end
            try:
                data = await self._files.read(name, position - generation.base, min(PAGE, end - position))
            except NoFile:
                data = b""
            await self._look()
            if turns == self._turns:
                if not data:
                    break
                return data
        raise self._lost()

    def _place(self, position: int) -> tuple[str, _Generation]:
        """Under which name the byte at ``position`` is, or will be, to be had."""
        for age, generation in enumerate(reversed(self._generations)):
            if position >= generation.base:
                return self._name(age), generation
        raise self._lost()

    def _name(self, age: int) -> str:
        return f"{self._path}.{age}" if age else self._path

    def _lost(self) -> UpstreamFault:
        return UpstreamFault(f"{self._files.who} has not kept the part of the file that comes next")

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
        while not (self._over or self._fault):
            await self._wanted()
            try:
                more = await self._look()
                self._failing = None
                if not more and not self._task_over and self._due():
                    self._task_over = await self._ended()
                    continue
            except (UpstreamFault, NoFile) as fault:
                more = self._bear(fault)
            if self._task_over and not more and self._failing is None:
                self._over = True
            self._wake(more)
            if not (more or self._over or self._fault):
                await sleep(self._pace.poll, self._clock)

    def _due(self) -> bool:
        """Whether it is time to ask again if the task has ended."""
        now = self._clock.seconds()
        due = self._asked is None or now - self._asked >= self._pace.ended
        self._asked = now if due else self._asked
        return due

    def _bear(self, fault: UpstreamFault | NoFile) -> bool:
        """Take a fault for one that passes, for a time; a file that was removed after its task's end is at its end."""
        now = self._clock.seconds()
        self._failing = now if self._failing is None else self._failing
        if isinstance(fault, NoFile) and self._task_over:
            self._over = True
        elif now - self._failing >= self._pace.patience:
            self._fault = UpstreamFault(f"{self._files.who} does not give the file any more: {fault}")
        return False

    async def _wanted(self) -> None:
        if not self._waiting:
            self._demand = Deferred()
            await self._demand

    def _wake(self, more: bool) -> None:
        if more or self._over or self._fault:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)

    async def _look(self) -> bool:
        """Read on at the end, if there is more; whether there was."""
        await self._lock.acquire()
        try:
            before = self.head
            try:
                fits = await self._read_on()
            except NoFile:
                fits = False
            if not fits:
                await self._turn()
            return self.head > before
        finally:
            self._lock.release()

    async def _read_on(self) -> bool:
        """Read behind what is known; False if what is there is another file."""
        name, generation = self._place(self.head)
        offset = self.head - generation.base
        if not offset and not await self._follows():
            return False
        known = self._known if offset else b""
        room = PAGE - len(known)
        if generation.end is not None:
            room = min(room, generation.end - self.head)
        data = await self._files.read(name, offset - len(known), len(known) + room)
        if data[: len(known)] != known:
            return False
        self._keep(data[len(known) :], generation)
        if generation.end is not None and len(data) == len(known):
            raise self._lost()
        return True

    async def _follows(self) -> bool:
        """Whether the file before the one that begins here is still the one before it."""
        size, tail = self._before
        if not tail:
            return True
        name, _ = self._place(self.head)
        age = int(name.removeprefix(self._path).lstrip(".") or 0)
        return await self._files.read(self._name(age + 1), size - len(tail), len(tail) + 1) == tail

    def _keep(self, data: bytes, generation: _Generation) -> None:
        self.head += len(data)
        self._window = (self._window + data)[-WINDOW:]
        self._known = (self._known + data)[-KNOWN:]
        if self.head == generation.end:
            self._before, self._known = (self.head - generation.base, self._known), b""

    async def _turn(self) -> None:
        """The file has got another name, or is not what it was: find out where it goes on."""
        _, generation = self._place(self.head)
        offset = self.head - generation.base
        size, tail = (offset, self._known) if offset else self._before
        age = await self._find(size, tail) if tail else None
        older = [each for each in self._generations if each.base < generation.base]
        if age is None:
            # Cut to nothing where it is, or gone: it begins anew, if it is there at all.
            await self._files.size(self._path)
            generations, self._known, self._before = [_Generation(self.head)], b"", (0, b"")
        else:
            base = generation.base
            names = range(age, 0, -1) if offset else range(age - 1, 0, -1)
            generations = list(older)
            for each in names:
                end = base + await self._files.size(self._name(each))
                generations.append(_Generation(base, end))
                base = end
            generations.append(_Generation(base))
            if offset and self.head == generations[len(older)].end:
                self._before, self._known = (offset, self._known), b""
        if generations != self._generations:
            self._generations = generations
            self._turns += 1

    async def _find(self, size: int, tail: bytes) -> int | None:
        """How often the file was renamed that has ``tail`` before its byte ``size``."""
        for age in range(1, OLDEST):
            try:
                if await self._files.read(self._name(age), size - len(tail), len(tail)) == tail:
                    return age
            except NoFile:
                return None
        return None
