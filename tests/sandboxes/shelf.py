"""A log in memory, as an agent shows it, that is written, rotated and emptied between any two of its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from datahub.errors import UpstreamFault
from datahub.kit.aio import sleep, start
from datahub.sandboxes.agents import PAGE, Entry, NoFile
from datahub.sandboxes.following import Pace, Watch, Watches

__all__ = ["FOLDER", "PACE", "PATH", "Follower", "Log", "Shelf"]

FOLDER = "/sandbox"
PATH = f"{FOLDER}/stdout"
PACE = Pace(poll=1.0, ended=1.0, patience=300.0, settle=60.0)


class Log:
    """The files by age; at most ``keep`` older ones stay.

    ``written`` is all that was ever written, and ``begins`` where in it each file begins.
    """

    def __init__(self, keep: int, clock: Clock) -> None:
        self.files: dict[int, tuple[bytes, int]] = {0: (b"", 0)}
        self.written = b""
        self.begins = [0]
        self.ended = False
        self.copying = False
        self._keep = keep
        self._clock = clock
        self._rotating: Iterator[None] = iter(())

    def write(self, data: bytes, age: int = 0) -> None:
        """Let the task write, unless the file is just being made or copied."""
        if age not in self.files or self.copying or self.ended:
            return
        self.written += data
        self.files[age] = (self.files[age][0] + data, int(self._clock.seconds()))

    def step(self, begin: Callable[[], Iterator[None]] | None = None) -> bool:
        """Do the next step of a rotation, or of a new one; whether there was any."""
        for _ in self._rotating:
            return True
        if begin is None:
            return False
        self._rotating = begin()
        return self.step()

    def rename(self) -> Iterator[None]:
        """Rotate as logrotate and most libraries do: the oldest first, each renaming a moment of its own."""
        yield from self._shift()
        self.files[1] = self.files.pop(0)
        self.begins.append(len(self.written))
        yield
        self.files[0] = (b"", int(self._clock.seconds()))
        self.files.pop(self._keep + 1, None)
        yield

    def copy(self) -> Iterator[None]:
        """Rotate as logrotate does with ``copytruncate``; what is written meanwhile would be lost to everybody."""
        self.copying = True
        yield from self._shift()
        now = int(self._clock.seconds())
        data, _ = self.files[0]
        self.files[1] = (data[: len(data) // 2], now)
        yield
        self.files[1] = (self.files[0][0], now)
        yield
        self.empty()
        self.files.pop(self._keep + 1, None)
        self.copying = False
        yield

    def _shift(self) -> Iterator[None]:
        for age in sorted(self.files, reverse=True):
            if age:
                self.files[age + 1] = self.files.pop(age)
                yield

    def empty(self) -> None:
        """Begin anew."""
        self.files[0] = (b"", int(self._clock.seconds()))
        self.begins.append(len(self.written))


class Shelf:
    """In the shape of `datahub.sandboxes.agents.Files`: a `Log`.

    An answer takes ``pause`` seconds; ``meanwhile`` is called before each.
    """

    who = "Mesos agent S0"
    key = "agent:5051"

    def __init__(self, log: Log, meanwhile: Callable[[], None], pause: float, clock: Clock) -> None:
        self._log = log
        self._meanwhile = meanwhile
        self._pause = pause
        self._clock = clock

    async def _answer(self) -> None:
        await sleep(self._pause, self._clock)
        self._meanwhile()

    async def size(self, path: str) -> int:
        """See `Files`."""
        await self._answer()
        return len(self._data(path))

    async def read(self, path: str, offset: int, length: int) -> bytes:
        """See `Files`."""
        await self._answer()
        return self._data(path)[offset : offset + min(length, PAGE)]

    async def browse(self, folder: str) -> list[Entry]:
        """See `Files`."""
        await self._answer()
        assert folder == FOLDER
        found = [
            Entry(f"{PATH}.{age}" if age else PATH, "-rw-r--r--", len(data), mtime)
            for age, (data, mtime) in self._log.files.items()
        ]
        return [*found, Entry(f"{FOLDER}/stderr", "-rw-r--r--", 5, 0), Entry(f"{PATH}.old", "-rw-r--r--", 5, 0)]

    def _data(self, path: str) -> bytes:
        age = int(path.removeprefix(PATH).removeprefix(".") or 0)
        if age not in self._log.files:
            raise NoFile("Not found")
        return self._log.files[age][0]


class Follower:
    """One who follows from where the file that is written to begins; `wanted` is what he is to be given."""

    def __init__(self, watches: Watches, shelf: Shelf, log: Log) -> None:
        self.data = b""
        self.error: Exception | None = None
        self.ended = False
        self._log = log
        self._first = self._last = len(log.begins) - 1
        self._watch: Watch = watches.watch(shelf, PATH, self._ask)  # type: ignore[arg-type]  # in the shape of Files
        self.running: Deferred[None] = start(self._follow())

    @property
    def wanted(self) -> list[bytes]:
        """What he may be given: from one of the files on that were written to when he began."""
        return [self._log.written[each:] for each in self._log.begins[self._first : self._last + 1]]

    async def _ask(self) -> bool:
        return self._log.ended

    async def _follow(self) -> None:
        try:
            begin = await self._watch.present()
            self._last = len(self._log.begins) - 1
            async for piece in self._watch.follow(begin):
                self.data += piece
        except (UpstreamFault, NoFile) as error:
            self.error = error
        self.ended = True
