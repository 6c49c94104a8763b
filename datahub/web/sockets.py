"""Files sent by way of a TCP transport's own socket: by the kernel where the connection is plain, else encrypted here.

Nothing blocks the reactor: before bytes are asked for, the kernel says whether they are in memory, and if not a thread
reads them first.
"""

# mypy: allow-untyped-calls
# (Twisted's own methods have no types, and are called here as ours.)
from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

from OpenSSL.SSL import Connection, WantReadError
from OpenSSL.SSL import Error as TlsError
from twisted.internet.defer import Deferred
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.tcp import Server
from twisted.protocols.tls import BufferingTLSTransport

from datahub.kit.aio import Task
from datahub.kit.threads import Pool
from datahub.web.pieces import FilePart, Piece, SourceChanged, close_all
from datahub.web.request import HubRequest

__all__ = ["KernelSender", "SocketSender", "TlsSender"]

STEP: Final = 1024 * 1024
"""The most that is sent in one turn of the reactor, and read ahead at once by a thread."""
SEAL: Final = 128 * 1024
"""What is read and encrypted at once. More is no quicker, and OpenSSL keeps as much again for each connection."""
SEALED: Final = SEAL + SEAL // 16
"""What that becomes at most, unless the caller wants tiny records."""
TAIL: Final = 4096
"""The last bytes of each file, which are held back until it was seen that the file has not changed."""
PASSING: Final = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS}


class SocketSender:
    """Takes the place of a TCP transport's writing: pieces go straight to its socket, behind what was written before.

    How, its subclasses say.
    """

    def __init__(self, request: HubRequest, pool: Pool, transport: Any) -> None:
        self._request = request
        self._pool = pool
        self._transport = transport
        self._taken = False
        self._queue: deque[Piece | memoryview] = deque()
        self._waiting: Deferred[None] | None = None
        self._enough = 0
        self._warming: Task | None = None
        self._warm = (-1, 0)
        self._failure: Exception | None = None
        self.moved = 0

    async def run(self, batches: AsyncGenerator[list[Piece], None]) -> None:
        """Send all pieces; returns when the socket, or the transport, has the last of them."""
        self._begin()
        self._transport.doWrite = self._do_write
        self._taken = True
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

    def _begin(self) -> None:
        """Let the transport have the headers."""
        self._request.write(b"")

    async def _until(self, enough: int) -> None:
        while len(self._queue) > enough:
            self._enough = enough
            self._waiting = Deferred()
            await self._waiting
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Give the transport its own way back."""
        if self._taken:
            del self._transport.doWrite
            self._rest()
        if self._warming is not None:
            self._warming.cancel()
        close_all(self._queue)

    def _do_write(self) -> Any:
        transport = self._transport
        if self._behind():
            result = type(transport).doWrite(transport)
            if self._queue:
                transport.startWriting()
            return result
        if self._warming is not None:
            # It begins again when that has been read.
            transport.stopWriting()
            return None
        try:
            self._write_some()
        except OSError as error:
            if error.errno in PASSING:
                return None
            return CONNECTION_LOST
        except SourceChanged as error:
            self._fail(error)
        if not self._queue:
            self._rest()
        if self._waiting is not None and len(self._queue) <= self._enough:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)
        return None

    def _rest(self) -> None:
        """Ask for no more turns, unless the transport has something to do in them: to send, or to end."""
        if not (self._behind() or self._transport.disconnecting):
            self._transport.stopWriting()

    def _behind(self) -> bool:
        """Whether the transport itself has something to send first."""
        # There is no other way to see it.
        return bool(self._transport.dataBuffer or self._transport._tempDataBuffer)  # noqa: SLF001

    def _fail(self, error: Exception) -> None:
        self._failure = error
        close_all(self._queue)

    def _write_some(self) -> None:
        """Send what the socket takes and is in memory, but not more than `STEP`."""
        raise NotImplementedError

    def _count(self, sent: int) -> None:
        self.moved += sent
        self._request.sentLength += sent

    def _in_memory(self, piece: FilePart, count: int) -> bool:
        """Whether the next ``count`` bytes can be had without waiting for a disk; else a thread reads them."""
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


class KernelSender(SocketSender):
    """Over a plain connection the kernel takes the bytes from the files."""

    def _write_some(self) -> None:
        left = STEP
        while self._queue and left > 0:
            piece = self._queue[0]
            sent = self._send_file(piece, left) if isinstance(piece, FilePart) else self._send_bytes(piece)
            if sent == 0:
                return
            left -= sent
            self._count(sent)

    def _send_bytes(self, piece: bytes | memoryview) -> int:
        # More to come: the kernel is not to send a header in a packet of its own.
        flags = socket.MSG_MORE if len(self._queue) > 1 else 0
        sent: int = self._transport.socket.send(piece, flags)
        if sent == len(piece):
            self._queue.popleft()
        else:
            self._queue[0] = memoryview(piece)[sent:]
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


class TlsSender(SocketSender):
    """Over TLS the bytes are read, and encrypted many records at once.

    Twisted gives each record of 16 KiB to the transport below by itself: downloads took 1.4 times the processor time.
    It still has the connection: what comes in, the handshake and the end are its own.
    """

    _room: Final = memoryview(bytearray(SEAL))
    """What is read and encrypted within one turn of the reactor; no sender leaves anything there."""

    @staticmethod
    def fits(transport: Any) -> bool:
        """Whether this is Twisted's TLS over TCP, as it is known here."""
        below: Any = getattr(transport, "transport", None)
        # These have no public names: if they are ever gone, a thread reads and Twisted encrypts.
        known = all(hasattr(transport, name) for name in ("_aggregator", "_appSendBuffer", "_lostTLSConnection"))
        return known and type(transport) is BufferingTLSTransport and type(below) is Server

    def __init__(self, request: HubRequest, pool: Pool, tls: Any) -> None:
        super().__init__(request, pool, tls.transport)
        self._tls = tls

    def _begin(self) -> None:
        super()._begin()
        self._flush()

    def _flush(self) -> None:
        """Have Twisted encrypt now what was written to it."""
        self._tls._aggregator.flush()  # noqa: SLF001 - it would be behind what is sent here

    def _write_some(self) -> None:
        left = STEP
        while self._queue and left > 0 and not self._behind():
            if self._tls.disconnecting or self._tls._lostTLSConnection:  # noqa: SLF001 - it was said to be the end
                raise ConnectionError
            if self._tls._appSendBuffer:  # noqa: SLF001 - nothing can be until Twisted has heard from the caller
                self._transport.stopWriting()
                return
            data = self._gather()
            if not data:
                return
            self._encrypt(data)
            left -= len(data)
            self._count(len(data))

    def _gather(self) -> memoryview:
        """The next bytes of the pieces: as many as are in memory and there is room for."""
        filled = 0
        while self._queue and filled < SEAL and self._warming is None:
            piece = self._queue[0]
            room = self._room[filled:]
            filled += self._read(piece, room) if isinstance(piece, FilePart) else self._copy(piece, room)
        return self._room[:filled]

    def _copy(self, piece: bytes | memoryview, room: memoryview) -> int:
        count = min(len(piece), len(room))
        room[:count] = piece[:count]
        if count == len(piece):
            self._queue.popleft()
        else:
            self._queue[0] = memoryview(piece)[count:]
        return count

    def _read(self, piece: FilePart, room: memoryview) -> int:
        count = min(len(room), piece.end - piece.first)
        if not self._in_memory(piece, count):
            return 0
        count = os.preadv(piece.file, [room[:count]], piece.first)
        if count == 0:
            raise SourceChanged("a file has become shorter while it was sent")
        piece.first += count
        if piece.first == piece.end:
            piece.check()
            piece.close()
            self._queue.popleft()
        return count

    def _encrypt(self, data: memoryview) -> None:
        """Send ``data``; what the socket does not take is left to the transport."""
        connection, done = self._tls.getHandle(), 0
        try:
            while done < len(data):
                done += connection.send(data[done:])
        except TlsError:
            # Twisted meets the same, and knows what to do; behind what has been encrypted.
            self._transport.write(_records(connection))
            self._tls.write(bytes(data[done:]))
            self._flush()
            return
        records = _records(connection)
        self._transport.write(records[self._sent_of(records) :])

    def _sent_of(self, records: bytes) -> int:
        try:
            sent: int = self._transport.socket.send(records)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            return 0
        return sent


def _records(connection: Connection) -> bytes:
    """All that was encrypted."""
    parts: list[bytes] = []
    with suppress(WantReadError):
        while not parts or len(parts[-1]) == SEALED:
            parts.append(connection.bio_read(SEALED))
    return b"".join(parts)


def _read_and_drop(file: int, first: int, end: int) -> None:
    buffer = memoryview(bytearray(min(STEP, end - first)))
    try:
        while first < end and (count := os.preadv(file, [buffer[: end - first]], first)):
            first += count
    finally:
        os.close(file)
