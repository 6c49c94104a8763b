"""States become an index without the reactor standing still: large ones in a child process.

A thread would not do: while JSON is decoded it holds the interpreter's lock.
"""

from __future__ import annotations

import os
import sys
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from datahub.errors import UpstreamFault, UpstreamSilent
from datahub.kit.aio import within
from datahub.sandboxes import index
from datahub.sandboxes.index import BAD, Index, Unreadable, build
from datahub.sandboxes.wire import Incoming

__all__ = ["Decoder"]

# A state of this many bytes is decoded in a few milliseconds, where it is.
SMALL: Final = 128 * 1024
LARGEST: Final = 2 * 1024**3
CHILDREN: Final = 8
STDIN, STDOUT, STDERR = range(3)


class Decoder:
    """Makes indexes of states; what takes longer than ``patience`` seconds is given up."""

    def __init__(self, reactor: Any, patience: float = 120.0) -> None:
        self._reactor = reactor
        self._patience = patience
        self._slots = DeferredSemaphore(CHILDREN)

    async def decode(self, who: str, kind: str, incoming: Incoming) -> Index:
        """Read a state to its end; raises `UpstreamFault`, naming ``who``, if it is none."""
        if incoming.length is not None and incoming.length > LARGEST:
            incoming.abort()
            raise UpstreamFault(f"the state of {who} is larger than {LARGEST} bytes")
        try:
            making = self._made(kind, incoming)
            blob = await within(self._patience, making, self._reactor, f"the state of {who}")
        except TimeoutError as error:
            raise UpstreamSilent(f"{who} did not send its state in time") from error
        except Unreadable as error:
            raise UpstreamFault(f"the state of {who} can't be read: {error}") from error
        return Index(blob)

    async def _made(self, kind: str, incoming: Incoming) -> bytes | mmap:
        if incoming.length is not None and incoming.length <= SMALL:
            return await self._here(kind, incoming)
        return await self._in_a_child(kind, incoming)

    async def _here(self, kind: str, incoming: Incoming) -> bytes:
        sink = _Kept()
        feed = _Feed(incoming, sink)
        await feed.done
        return build(kind, b"".join(sink.parts))

    async def _in_a_child(self, kind: str, incoming: Incoming) -> mmap:
        try:
            await self._slots.acquire()
        except CancelledError:
            incoming.abort()
            raise
        child = _Child()
        # Memory that the child fills and the hub looks into: an index of tens of MB is never copied here.
        memory = os.memfd_create("datahub-index")
        try:
            program = [sys.executable, "-m", "datahub.sandboxes.index", kind]
            files = {STDIN: "w", STDOUT: memory, STDERR: "r"}
            transport = self._reactor.spawnProcess(child, program[0], program, env=_environment(), childFDs=files)
            await _Feed(incoming, transport).done
            transport.closeStdin()
            await child.done
            return mmap(memory, 0, access=ACCESS_READ)
        finally:
            child.kill()
            os.close(memory)
            self._slots.release()


class _Kept:
    """A consumer that keeps what it is given."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.parts.append(data)

    def registerProducer(self, producer: object, streaming: bool) -> None: ...  # noqa: N802 - Twisted's name

    def unregisterProducer(self) -> None: ...  # noqa: N802 - Twisted's name


class _Feed(TwistedProtocol):
    """Leads a body into a consumer, no faster than that takes it."""

    def __init__(self, incoming: Incoming, consumer: Any) -> None:
        self.done: Deferred[None] = Deferred(lambda _: incoming.abort())
        self._incoming = incoming
        self._consumer = consumer
        self._size = 0
        incoming.deliver(self)

    def connectionMade(self) -> None:
        self._consumer.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > LARGEST:
            self._incoming.abort()
        else:
            self._consumer.write(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008 - Twisted's default
        self._consumer.unregisterProducer()
        if self.done.called:
            return
        if reason.check(ResponseDone):
            self.done.callback(None)
        else:
            self.done.errback(Unreadable("it was broken off"))


class _Child(ProcessProtocol):
    def __init__(self) -> None:
        self.done: Deferred[None] = Deferred()
        self._errors = b""
        self._alive = True

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N803 - Twisted's name
        self._errors = (self._errors + data)[-4096:]

    def kill(self) -> None:
        if self._alive and self.transport is not None:
            self.transport.signalProcess("KILL")

    def processExited(self, reason: Failure) -> None:
        self._alive = False

    def processEnded(self, reason: Failure) -> None:
        if self.done.called:
            return
        text = self._errors.decode("utf-8", "replace")
        if reason.check(ProcessDone):
            self.done.callback(None)
        elif isinstance(reason.value, ProcessTerminated) and reason.value.exitCode == BAD:
            self.done.errback(Unreadable(text))
        else:
            self.done.errback(RuntimeError(f"the decoder of states ended with {reason.value}: {text}"))


def _environment() -> dict[str, str]:
    """The child must find this very code, from wherever it was started."""
    here = str(Path(index.__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
