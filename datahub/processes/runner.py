"""The side of the daemon: a supervisor is started, ordered, listened to, and started again when it was killed."""

# mypy: allow-untyped-calls
# (Twisted's own methods have no types, and are called here as ours.)
from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from datahub.errors import StartError, Unavailable
from datahub.kit.aio import leave, within

__all__ = ["Child", "Ended", "Order", "Runner", "Written"]

log = Logger()

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = "import sys; sys.path.append(sys.argv.pop(1)); from datahub.processes.supervisor import main; main()"
STOP_PATIENCE: Final = 10.0
SHORT_LIFE: Final = 2.0
PAUSE: Final = 1.0


class Order(msgspec.Struct, frozen=True):
    """What is to be run: times in seconds, ``keep`` in bytes; one file of ``output`` for both streams, or one each.

    ``stdin`` is the path of a file. ``limits`` are those of `datahub.processes.spawning`, and ``processes``.
    """

    job: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    timeout: float
    grace: float
    limits: Mapping[str, int]
    output: Sequence[str]
    keep: int
    stdin: str | None = None


class Written(msgspec.Struct, frozen=True, array_like=True):
    """What came out of one stream: the bytes kept, those dropped at its head, and those lost since a ``fault``."""

    total: int = 0
    dropped: int = 0
    lost: int = 0
    fault: str | None = None


class Ended(msgspec.Struct, frozen=True):
    """How a job ended: ``code`` or ``signal``; ``cause`` who stopped it; ``error`` why it was not begun.

    ``usage`` is user time, system time (seconds) and the largest resident set (KiB). ``lost`` says why nothing more is
    known.
    """

    code: int | None = None
    signal: int | None = None
    core: bool = False
    cause: str | None = None
    error: str | None = None
    usage: tuple[float, float, int] | None = None
    output: tuple[Written, ...] = ()
    lost: str | None = None


class _Told(msgspec.Struct):
    """A line of the supervisor's."""

    job: str | None = None
    ended: str | None = None
    ready: bool | None = None
    pid: int = 0
    start: int = 0
    output: tuple[Written, ...] = ()


_told = msgspec.json.Decoder(_Told)
_ended = msgspec.json.Decoder(Ended)
_encode = msgspec.json.Encoder().encode


@dataclass
class Child:
    """A job under way here: what is known of it so far."""

    order: Order
    pid: int = 0
    start: int = 0
    output: tuple[Written, ...] = ()
    ended: Ended | None = None
    _waiting: set[Deferred[None]] = field(default_factory=set)

    def change(self) -> Deferred[None]:
        """Fires when there is more output, or the end. `datahub.kit.aio.leave` it in the end."""
        waiting: Deferred[None] = Deferred(self._waiting.discard)
        self._waiting.add(waiting)
        return waiting

    def tell(self) -> None:
        """Tell all who wait."""
        waiting, self._waiting = self._waiting, set()
        for each in waiting:
            if not each.called:
                each.callback(None)

    async def end(self) -> Ended:
        """Wait for the end: no process of the job is left then."""
        while self.ended is None:
            change = self.change()
            try:
                await change
            finally:
                leave(change)
        return self.ended


class Runner:
    """Runs jobs below a supervisor; ``lock`` is the file that its processes hold. A part of the hub."""

    def __init__(self, lock: Path, reactor: Any) -> None:
        self._lock = lock
        self._reactor = reactor
        self._children: dict[str, Child] = {}
        self._lost: list[Child] = []
        self._waiting: list[Deferred[None]] = []
        self._expected: dict[str, set[Deferred[None]]] = {}
        self._process: _Process | None = None
        self._again: IDelayedCall | None = None
        self._ready = False
        self._stopping = False

    def start(self) -> None:
        """Start the supervisor; raises `StartError` if there is no such program."""
        try:
            self._lock.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._spawn()
        except OSError as error:
            raise StartError(f"the supervisor of jobs can't be started: {error}") from error

    async def stop(self) -> None:
        """End the supervisor, and with it all that still runs."""
        self._stopping = True
        if self._again is not None and self._again.active():
            self._again.cancel()
        process = self._process
        if process is None:
            return
        process.close()
        try:
            await within(STOP_PATIENCE, process.gone(), self._reactor, "the end of the supervisor")
        except TimeoutError as error:
            log.warn("{error}: it is killed", error=str(error))
            process.kill()
            await process.gone()

    async def check(self) -> str | None:
        """Say why no job can be started, None when all is well."""
        return None if self._ready else "the supervisor of jobs is being started"

    @property
    def pid(self) -> int | None:
        """The supervisor's process."""
        return self._process.pid if self._process else None

    def find(self, job: str) -> Child | None:
        """The job, while it is under way here."""
        return self._children.get(job)

    async def ready(self) -> None:
        """Wait until jobs can be run: nothing of a former supervisor is left by then."""
        while not self._ready:
            if self._stopping:
                raise Unavailable("the hub is stopping")
            waiting: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(waiting)
            await waiting

    async def run(self, order: Order) -> Child:
        """Have ``order`` run; the job goes on when who waits is cancelled."""
        await self.ready()
        child = self._children[order.job] = Child(order, output=tuple(Written() for _ in order.output))
        for each in self._expected.pop(order.job, ()):
            each.callback(None)
        self._send(order)
        return child

    def appears(self, job: str) -> Deferred[None]:
        """Fires when the job begins here. `datahub.kit.aio.leave` it in the end."""

        def forget(gone: Deferred[None]) -> None:
            waiting = self._expected.get(job, set())
            waiting.discard(gone)
            if not waiting:
                self._expected.pop(job, None)

        expected: Deferred[None] = Deferred(forget)
        self._expected.setdefault(job, set()).add(expected)
        return expected

    def end(self, job: str, cause: str, grace: float) -> bool:
        """Stop a job with SIGTERM, and after ``grace`` seconds with SIGKILL; whether it is under way here."""
        if job not in self._children:
            return False
        self._send({"stop": job, "cause": cause, "grace": grace})
        return True

    def forget(self, job: str) -> None:
        """Its end is on record."""
        self._children.pop(job, None)

    def _send(self, what: Order | dict[str, Any]) -> None:
        if self._process is not None:
            self._process.write(_encode(what) + b"\n")

    def _spawn(self) -> None:
        self._process = _Process(self, self._reactor.seconds())
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", PROGRAM, str(ROOT), str(self._lock)]
        environ = {"PATH": os.environ.get("PATH", os.defpath)}
        self._reactor.spawnProcess(self._process, sys.executable, command, environ)

    def heard(self, line: bytes) -> None:
        """Take note of what the supervisor tells."""
        told = _told.decode(line)
        if told.ready is not None:
            self._begin(alone=told.ready)
        elif told.ended is not None:
            self._end(told.ended, _ended.decode(line))
        elif told.job in self._children:
            child = self._children[told.job]
            if told.pid:
                child.pid, child.start = told.pid, told.start
            else:
                child.output = told.output
            child.tell()

    def _begin(self, *, alone: bool) -> None:
        if not alone:
            log.warn("processes of former jobs can't be killed; they hold {lock}", lock=str(self._lock))
        self._ready = True
        lost, self._lost = self._lost, []
        for child in lost:
            self._end(child.order.job, Ended(lost="the supervisor of jobs was killed"))
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def _end(self, job: str, ended: Ended) -> None:
        child = self._children.get(job)
        if child is not None and child.ended is None:
            child.output = ended.output or child.output
            child.ended = ended
            child.tell()

    def gone(self, lived: float) -> None:
        """The supervisor is gone: what ran under it is lost as soon as a new one knows that nothing of it is left."""
        self._process, self._ready = None, False
        self._lost += [each for each in self._children.values() if each.ended is None and each not in self._lost]
        if self._stopping:
            self._begin(alone=True)
            return
        log.error("the supervisor of jobs has ended: {count} jobs are lost", count=len(self._lost))
        if lived < SHORT_LIFE:
            self._again = self._reactor.callLater(PAUSE, self._spawn_again)
        else:
            self._spawn_again()

    def _spawn_again(self) -> None:
        """Start a new supervisor, as often as it takes: memory or descriptors may be short for a while."""
        try:
            self._spawn()
        except OSError as error:
            self._process = None
            log.warn("the supervisor of jobs can't be started, which is tried again: {error}", error=str(error))
            self._again = self._reactor.callLater(PAUSE, self._spawn_again)


class _Process(ProcessProtocol):
    """The supervisor's process."""

    transport: IProcessTransport

    def __init__(self, runner: Runner, now: float) -> None:
        self._runner = runner
        self._begun = now
        self._buffer = b""
        self._gone: list[Deferred[None]] = []
        self._ended = False
        self.pid: int | None = None

    def connectionMade(self) -> None:
        """It runs."""
        self.pid = self.transport.pid

    def write(self, data: bytes) -> None:
        """Give it a line."""
        self.transport.writeToChild(0, data)

    def close(self) -> None:
        """Let it know that there is nothing more to do."""
        self.transport.closeStdin()

    def kill(self) -> None:
        """End it at once."""
        self.transport.signalProcess("KILL")

    async def gone(self) -> None:
        """Wait for its end."""
        if not self._ended:
            waiting: Deferred[None] = Deferred(self._gone.remove)
            self._gone.append(waiting)
            await waiting

    def outReceived(self, data: bytes) -> None:
        """It tells something."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                self._runner.heard(line)
            except (msgspec.MsgspecError, CancelledError):
                log.failure("the supervisor said {line}", line=line[:200])

    def errReceived(self, data: bytes) -> None:
        """It met a fault."""
        for line in data.decode("utf-8", "replace").splitlines():
            log.error("supervisor: {line}", line=line)

    def processExited(self, reason: Failure) -> None:
        """Wardens may hold its pipes a little longer; what they say reaches nobody any more."""
        self._ended = True
        self.transport.loseConnection()
        waiting, self._gone = self._gone, []
        clock: Any = self._runner._reactor  # noqa: SLF001 - the other half of one thing
        self._runner.gone(clock.seconds() - self._begun)
        for each in waiting:
            each.callback(None)

    def processEnded(self, reason: Failure) -> None:
        """Nothing more to be done."""
