"""Files sent as answers: by the kernel where the connection allows it, else by large reads in threads.

The caller's connection sets the pace; what is open or in memory is one or two batches. Nothing blocks the reactor:
before the kernel is asked to send, it says whether the bytes are in memory, and if not a thread reads them first.
"""

# mypy: allow-untyped-calls
# (Twisted's own methods have no types, and are called here as ours.)
from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from traceback import clear_frames
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.tcp import Server

from datahub.errors import Conflict
from datahub.kit.aio import Task
from datahub.kit.threads import Pool
from datahub.web.pipe import Gate
from datahub.web.request import HubRequest
from datahub.web.silence import unsent

__all__ = ["FilePart", "Piece", "SourceChanged", "send_pieces"]

STEP: Final = 1024 * 1024
"""The most that is sent in one turn of the reactor, and read ahead at once by a thread."""
READ: Final = 256 * 1024
"""What is read and given to TLS at once: more of it would leave the processor's cache."""
TAIL: Final = 4096
"""The last bytes of each file, which are held back until it was seen that the file has not changed."""
STALL: Final = 300.0
"""Seconds without a byte taken, after which a caller is given up."""
PASSING: Final = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS}


class SourceChanged(Conflict):
    """A file is not any more what was promised; a connection on which it is being sent is broken before its end."""

    code = "cart.changed"


@dataclass(slots=True)
class FilePart:
    """The bytes of the open ``file`` from ``first`` up to, but without, ``end``; ``check`` raises `SourceChanged`."""

    file: int
    first: int
    end: int
    check: Callable[[], None]

    def close(self) -> None:
        """Let go of the file."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


Piece = bytes | FilePart


async def send_pieces(request: HubRequest, batches: AsyncGenerator[list[Piece], None], pool: Pool) -> None:
    """Send all pieces in order as the body of an answer whose length is known; files are closed as they are sent.

    Raises `SourceChanged` for a file that has changed, before its last byte is sent; for one of the first batch before
    anything of the answer is.
    """
    transport: Any = getattr(request.channel, "transport", None)
    # A wrapped connection (TLS) has no socket of its own to send to, and a chunked body has bytes in between.
    plain = type(transport) is Server and request.clientproto == b"HTTP/1.1" and not request.chunked
    sender = _KernelSender(request, pool) if plain else _ThreadSender(request, pool)
    watch = _Watch(request, sender)
    first: list[Piece] = []
    try:
        async with aclosing(batches):
            with suppress(StopAsyncIteration):
                first = await anext(batches)
            await sender.run(_again(first, batches))
    except BaseException as error:
        # Twisted's failures stay in a circle until everything is collected, and with them what these frames hold.
        clear_frames(error.__traceback__)
        raise
    finally:
        watch.stop()
        sender.close()
        _close(first)


async def _again(first: list[Piece], others: AsyncGenerator[list[Piece], None]) -> AsyncGenerator[list[Piece], None]:
    """All batches, of which one has been made already."""
    yield first
    async for each in others:
        yield each


class _KernelSender:
    """Takes the place of the transport's writing: pieces go straight to its socket, behind what was written before."""

    def __init__(self, request: HubRequest, pool: Pool) -> None:
        self._request = request
        self._pool = pool
        self._queue: deque[Piece] = deque()
        self._waiting: Deferred[None] | None = None
        self._enough = 0
        self._transport: Any = None
        self._warming: Task | None = None
        self._warm = (-1, 0)
        self._failure: Exception | None = None
        self.moved = 0

    async def run(self, batches: AsyncGenerator[list[Piece], None]) -> None:
        self._request.write(b"")
        self._transport = self._request.channel.transport
        self._transport.doWrite = self._do_write
        async for batch in batches:
            self._queue.extend(batch)
            # What was sent is not kept until all of the batch was.
            batch.clear()
            if self._failure is not None:
                raise self._failure
            self._transport.startWriting()
            # The next batch is made while the last piece of this one goes out.
            await self._until(1)
        await self._until(0)

    async def _until(self, enough: int) -> None:
        while len(self._queue) > enough:
            self._enough = enough
            self._waiting = Deferred()
            await self._waiting
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Give the transport its own way back."""
        if self._transport is not None:
            del self._transport.doWrite
            if not (self._transport.dataBuffer or self._transport._tempDataBuffer):  # noqa: SLF001 - see numbers
                self._transport.stopWriting()
        if self._warming is not None:
            self._warming.cancel()
        _close(self._queue)

    def _do_write(self) -> Any:
        transport = self._transport
        if transport.dataBuffer or transport._tempDataBuffer:  # noqa: SLF001 - there is no other way to see it
            result = type(transport).doWrite(transport)
            if self._queue:
                transport.startWriting()
            return result
        try:
            self._write_some()
        except OSError as error:
            if error.errno in PASSING:
                return None
            return CONNECTION_LOST
        except SourceChanged as error:
            self._fail(error)
        if not self._queue:
            transport.stopWriting()
        if self._waiting is not None and len(self._queue) <= self._enough:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)
        return None

    def _fail(self, error: Exception) -> None:
        self._failure = error
        _close(self._queue)

    def _write_some(self) -> None:
        left = STEP
        while self._queue and left > 0:
            piece = self._queue[0]
            sent = self._send_bytes(piece) if isinstance(piece, bytes) else self._send_file(piece, left)
            if sent == 0:
                return
            left -= sent
            self.moved += sent
            self._request.sentLength += sent

    def _send_bytes(self, piece: bytes) -> int:
        # More to come: the kernel is not to send a header in a packet of its own.
        flags = socket.MSG_MORE if len(self._queue) > 1 else 0
        sent: int = self._transport.socket.send(piece, flags)
        if sent == len(piece):
            self._queue.popleft()
        else:
            self._queue[0] = piece[sent:]
        return sent

    def _send_file(self, piece: FilePart, most: int) -> int:
        count = min(most, piece.end - piece.first)
        if not self._in_memory(piece, count):
            return 0
        if piece.end - piece.first <= TAIL:
            return self._turn_to_bytes(piece)
        sent = os.sendfile(
            self._transport.fileno(), piece.file, piece.first, min(count, piece.end - TAIL - piece.first)
        )
        if sent == 0:
            raise SourceChanged("a file has become shorter while it was sent")
        piece.first += sent
        return sent

    def _turn_to_bytes(self, piece: FilePart) -> int:
        data = os.pread(piece.file, piece.end - piece.first, piece.first)
        if len(data) != piece.end - piece.first:
            raise SourceChanged("a file has become shorter while it was sent")
        piece.check()
        piece.close()
        self._queue[0] = data
        return self._send_bytes(data)

    def _in_memory(self, piece: FilePart, count: int) -> bool:
        """Whether the next ``count`` bytes can be had without waiting for a disk; else a thread reads them."""
        if self._warming is not None:
            return False
        if self._warm[0] == piece.file and piece.first + count <= self._warm[1]:
            return True
        try:
            if os.preadv(piece.file, [bytearray(1)], piece.first + count - 1, os.RWF_NOWAIT):
                return True
            raise SourceChanged("a file has become shorter while it was sent")
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise SourceChanged(f"a file can't be read any more: {error.strerror}") from error
        self._transport.stopWriting()
        reading = Task("read ahead", self._read_ahead(piece, count))
        self._warming = reading if reading.running else None
        return self._warming is None

    async def _read_ahead(self, piece: FilePart, count: int) -> None:
        # A descriptor of its own: the piece may be closed meanwhile, and its number be another's.
        file, end = os.dup(piece.file), piece.first + count
        try:
            await self._pool.run(_read_and_drop, file, piece.first, end)
        except OSError as error:
            self._fail(SourceChanged(f"a file can't be read any more: {error.strerror}"))
        self._warm = piece.file, end
        self._warming = None
        self._transport.startWriting()


class _ThreadSender:
    """Reads in a thread, one step ahead of what the caller takes."""

    def __init__(self, request: HubRequest, pool: Pool) -> None:
        self._request = request
        self._pool = pool
        self._gate = Gate()
        self._open: list[Piece] = []
        self._registered = False
        self.moved = 0

    async def run(self, batches: AsyncGenerator[list[Piece], None]) -> None:
        self._request.registerProducer(self._gate, True)
        self._registered = True
        async for batch in batches:
            self._open = batch
            for piece in batch:
                if isinstance(piece, bytes):
                    await self._write(piece)
                else:
                    await self._send_file(piece)

    async def _write(self, data: bytes) -> None:
        self._request.write(data)
        self.moved += len(data)
        await self._gate.opened()

    async def _send_file(self, piece: FilePart) -> None:
        while piece.first < piece.end:
            data = _read_now(piece) or await self._pool.run(_read_step, piece)
            piece.first += len(data)
            await self._write(data)
        piece.close()

    def close(self) -> None:
        """Let go of the connection and of the files."""
        if self._registered and self._request.channel is not None:
            self._request.unregisterProducer()
        _close(self._open)


def _read_now(piece: FilePart) -> bytes:
    """The next bytes, if they are in memory, which saves the way through a thread; else nothing."""
    buffer = bytearray(min(READ, piece.end - piece.first))
    try:
        count = os.preadv(piece.file, [buffer], piece.first, os.RWF_NOWAIT)
    except OSError:
        return b""
    if count and piece.first + count == piece.end:
        piece.check()
    return bytes(memoryview(buffer)[:count])


def _read_step(piece: FilePart) -> bytes:
    count = min(READ, piece.end - piece.first)
    data = os.pread(piece.file, count, piece.first)
    if not data:
        raise SourceChanged("a file has become shorter while it was sent")
    if piece.first + len(data) == piece.end:
        piece.check()
    return data


def _read_and_drop(file: int, first: int, end: int) -> None:
    buffer = memoryview(bytearray(min(STEP, end - first)))
    try:
        while first < end and (count := os.preadv(file, [buffer[: end - first]], first)):
            first += count
    finally:
        os.close(file)


def _close(pieces: Sequence[Piece] | deque[Piece]) -> None:
    for piece in pieces:
        if isinstance(piece, FilePart):
            piece.close()
    pieces.clear()  # type: ignore[union-attr]  # lists and deques have it


class _Watch:
    """Aborts a connection whose caller takes nothing for `STALL` seconds."""

    def __init__(self, request: HubRequest, sender: _KernelSender | _ThreadSender) -> None:
        self._request = request
        self._sender = sender
        self._seen = (0, 0)
        self._call: IDelayedCall = request.site.reactor.callLater(STALL, self._look)

    def _look(self) -> None:
        seen = (self._sender.moved, unsent(getattr(self._request.channel, "transport", None)))
        if seen == self._seen:
            self._request.abort()
            return
        self._seen = seen
        self._call = self._request.site.reactor.callLater(STALL, self._look)

    def stop(self) -> None:
        if self._call.active():
            self._call.cancel()
