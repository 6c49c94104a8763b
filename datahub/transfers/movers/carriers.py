"""Processes that carry: each obeys one order at a time, serves many one after the other, and dies with the hub.

What they speak is told in `datahub.transfers.grid`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from signal import SIGKILL
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure

from datahub.errors import PassingFault
from datahub.kit.aio import gather, within
from datahub.transfers.movers import Checksum, CopiedFile, Filed, Progress, nobody

__all__ = ["Carriers", "Fault"]

log = Logger()

PATIENCE = 90.0
"""Seconds in which a carrier must get on, unless it asks for more. Its own limits are shorter, and tell more."""

IDLE = 30.0
"""Seconds that a carrier without an order is kept: its login at the server with it."""

LAST_WAIT = 20.0
"""Seconds in which a process that was killed must have gone: one that waits for a dead disk (state D) can't."""

LONGEST_LINE = 64 * 1024
SHOWN = 2000


class Lines:
    """What is told beside an order, a line of JSON each; it may be long, so it is sent as it is read."""

    def __init__(self) -> None:
        self._written = BytesIO()
        self.count = 0

    def add(self, facts: Mapping[str, object]) -> None:
        """Write a line."""
        self._written.write(_line(facts))
        self.count += 1

    def send(self, consumer: Any) -> Deferred[Any]:
        """Send all of it; fails when the consumer wants no more."""
        self._written.seek(0)
        sending: Deferred[Any] = FileSender().beginFileTransfer(self._written, consumer)
        return sending


class Fault(msgspec.Struct, frozen=True):
    """Why an order was not carried out: ``where`` it was, and its ``errno`` or ``kind`` as the child names them."""

    text: str
    where: str
    errno: int
    kind: str


class File(msgspec.Struct, frozen=True):
    """A file whose copy begins, or with ``adler32`` (hexadecimal) is verified; ``size`` in bytes."""

    path: str
    size: int
    adler32: str | None


class Message(msgspec.Struct, frozen=True):
    """A line that a carrier says."""

    moved: int = 0
    patience: float = 0.0
    file: File | None = None
    done: dict[str, Any] | None = None
    fault: Fault | None = None


_message = msgspec.json.Decoder(Message)


class Carriers:
    """As many processes as there are orders at once; ``command`` is an absolute path with arguments.

    ``stamp`` says which credentials count: a carrier that has logged in with others gets no more orders.
    """

    def __init__(
        self, command: list[str], environment: Mapping[str, str], stamp: Callable[[], object], reactor: Any
    ) -> None:
        self._command = command
        self._environment = dict(environment)
        self._stamp = stamp
        self._reactor = reactor
        self._idle: list[tuple[_Carrier, IDelayedCall]] = []
        self._all: set[_Carrier] = set()

    def start(self) -> None:
        """Nothing is begun before it is needed."""

    async def stop(self) -> None:
        """End all processes, and wait for it."""
        for _, leaving in self._idle:
            leaving.cancel()
        self._idle.clear()
        await gather(*(each.end() for each in self._all))

    async def obey(
        self,
        order: Mapping[str, object],
        progress: Progress,
        filed: Filed = nobody,
        entries: Lines | None = None,
    ) -> dict[str, Any] | Fault:
        """Have an order carried out, with what is in its product: what the carrier says of it in the end.

        When this is cancelled or raises, nothing of it goes on, see `LAST_WAIT`. Raises `PassingFault` when the
        process dies, or is killed because it does not get on.
        """
        carrier = self._take()
        try:
            answer = await carrier.obey(order, progress, filed, entries or Lines())
        except BaseException:
            await carrier.end()
            raise
        if isinstance(answer, Fault):
            # What went wrong may have been its connection.
            await carrier.end()
        else:
            self._keep(carrier)
        return answer

    def _take(self) -> _Carrier:
        stamp = self._stamp()
        while self._idle:
            carrier, leaving = self._idle.pop()
            leaving.cancel()
            if carrier.stamp == stamp and carrier.alive:
                return carrier
            carrier.leave()
        carrier = _Carrier(stamp, self._reactor, self._all.discard)
        program = self._command[0]
        if not os.access(program, os.X_OK):
            raise PassingFault(f"the program {program} is not on this host: install it")
        # It looks whether its parent is still the hub, once it dies with that.
        self._reactor.spawnProcess(carrier, program, [*self._command, str(os.getpid())], env=self._environment)
        self._all.add(carrier)
        return carrier

    def _keep(self, carrier: _Carrier) -> None:
        def leave() -> None:
            self._idle.remove(kept)
            carrier.leave()

        kept = (carrier, self._reactor.callLater(IDLE, leave))
        self._idle.append(kept)


class _Carrier(ProcessProtocol):
    """One process."""

    def __init__(self, stamp: object, reactor: Any, gone: Callable[[_Carrier], None]) -> None:
        self.stamp = stamp
        self.alive = True
        self._reactor = reactor
        self._gone = gone
        self._line = b""
        self._errors = b""
        self._answer: Deferred[dict[str, Any] | Fault] | None = None
        self._progress: Progress = _ignore
        self._filed: Filed = nobody
        self._limit: IDelayedCall | None = None
        self._ends: list[Deferred[None]] = []
        self._number = 0
        self._leaving: IDelayedCall | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None  # noqa: S101 - it was spawned
        self._number = self.transport.pid or 0

    def obey(
        self, order: Mapping[str, object], progress: Progress, filed: Filed, entries: Lines
    ) -> Deferred[dict[str, Any] | Fault]:
        """Give it an order; who cancels this must `end` it."""
        self._answer = Deferred(self._cancelled)
        self._progress, self._filed = progress, filed
        self._be_patient(PATIENCE)
        assert self.transport is not None  # noqa: S101 - it was spawned
        self.transport.write(_line({**order, "entries": entries.count}))
        if entries.count:
            # When the process ends before it has read them, that is told by other means.
            entries.send(self.transport).addErrback(lambda _: None)
        return self._answer

    def _cancelled(self, _: object) -> None:
        self._rest()

    def outReceived(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        try:
            for line in lines:
                self._hear(_message.decode(line))
        except msgspec.MsgspecError as error:
            self._fail(f"spoke nonsense: {error}")
        if len(self._line) > LONGEST_LINE:
            self._fail("spoke without end")

    def errReceived(self, data: bytes) -> None:
        self._errors = (self._errors + data)[-SHOWN:]

    def _hear(self, message: Message) -> None:
        if self._answer is None:
            return
        self._be_patient(max(PATIENCE, message.patience))
        if message.moved:
            self._progress(message.moved)
        elif message.file is not None:
            self._filed(_copied(message.file))
        elif message.fault is not None:
            self._rest().callback(message.fault)
        elif message.done is not None:
            self._rest().callback(message.done)

    def _be_patient(self, seconds: float) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self._reactor.callLater(seconds, self._give_up, seconds)

    def _give_up(self, seconds: float) -> None:
        self._limit = None
        self._fail(f"did not get on within {seconds:g} s, neither did its peers: it was killed")

    def _rest(self) -> Deferred[dict[str, Any] | Fault]:
        """Wait for no answer any more; the one that was waited for."""
        answer, self._answer, self._progress, self._filed = self._answer, None, _ignore, nobody
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        return answer or Deferred()

    def _fail(self, text: str) -> None:
        self._kill()
        if self._answer is not None:
            self._rest().errback(PassingFault(f"the process that moves files {text}"))

    def leave(self) -> None:
        """Let it end by itself, within `LAST_WAIT`; it has nothing to do."""
        if self.alive and self.transport is not None:
            self.transport.closeStdin()
            self._leaving = self._reactor.callLater(LAST_WAIT, self._kill)

    def _kill(self) -> None:
        if not self.alive or self.transport is None:
            return
        # It has none any more when it has ended, and its pipes are still open.
        if self.transport.pid is not None:
            # Its group is its own, once it has begun; what it has started is in there.
            with suppress(ProcessLookupError):
                os.killpg(self.transport.pid, SIGKILL)
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    async def end(self) -> None:
        """Kill it and wait until it is gone, however often that is cancelled, but no longer than `LAST_WAIT`."""
        cancelled, last = False, self._reactor.seconds() + LAST_WAIT
        while self.alive and self._reactor.seconds() < last:
            self._kill()
            waiting: Deferred[None] = Deferred(self._ends.remove)
            self._ends.append(waiting)
            try:
                await within(last - self._reactor.seconds(), waiting, self._reactor, "its end")
            except TimeoutError:
                self._leave_behind()
            except CancelledError:
                cancelled = True
        if cancelled:
            raise CancelledError

    def _leave_behind(self) -> None:
        assert self.transport is not None  # noqa: S101 - it was spawned
        log.error(
            "process {number}, which moved files, was killed and has not gone within {seconds:g} s: nobody waits for "
            "it any more; its disk may be away, or what it has started holds its pipes",
            number=self._number,
            seconds=LAST_WAIT,
        )
        self.transport.loseConnection()

    def processEnded(self, reason: Failure) -> None:
        self.alive = False
        if self._leaving is not None and self._leaving.active():
            self._leaving.cancel()
        self._gone(self)
        if self._answer is not None:
            said = self._errors.decode("utf-8", "replace").strip()
            log.warn("a process that moves files ended: {reason}; it said: {said}", reason=reason.value, said=said)
            self._rest().errback(PassingFault("the process that moves files ended unexpectedly, see the log"))
        ends, self._ends = self._ends, []
        for each in ends:
            each.callback(None)


def _line(facts: Mapping[str, object]) -> bytes:
    """A line of ASCII: what is no text in a name comes through, and is refused by its name."""
    return json.dumps(facts).encode() + b"\n"


def _copied(file: File) -> CopiedFile:
    return CopiedFile(file.path, file.size, None if file.adler32 is None else Checksum("adler32", file.adler32))


def _ignore(_: int) -> None:
    """Nobody wants to know."""
