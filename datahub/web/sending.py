"""Files sent as answers: straight to the socket where the connection allows it, else by Twisted and threads that read.

The caller's connection sets the pace; what is open or in memory is one or two batches.
"""

# mypy: allow-untyped-calls
# (Twisted's own methods have no types, and are called here as ours.)
from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from traceback import clear_frames
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.tcp import Server

from datahub.kit.threads import Pool
from datahub.web.pieces import FilePart, Piece, SourceChanged, close_all
from datahub.web.pipe import Gate
from datahub.web.request import HubRequest
from datahub.web.silence import unsent
from datahub.web.sockets import KernelSender, SocketSender, TlsSender

__all__ = ["FilePart", "Piece", "SourceChanged", "send_pieces"]

READ: Final = 256 * 1024
"""What is read and given to Twisted at once: more of it would leave the processor's cache."""
STALL: Final = 300.0
"""Seconds after which a source is given up that gives nothing, though the caller has taken all there was."""


async def send_pieces(request: HubRequest, batches: AsyncGenerator[list[Piece], None], pool: Pool) -> None:
    """Send all pieces in order as the body of an answer whose length is known; files are closed as they are sent.

    Raises `SourceChanged` for a file that has changed, before its last byte is sent; for one of the first batch before
    anything of the answer is.
    """
    sender = _sender(request, pool)
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
        close_all(first)


def _sender(request: HubRequest, pool: Pool) -> SocketSender | _ThreadSender:
    """The quickest way that the connection allows."""
    transport: Any = getattr(request.channel, "transport", None)
    # A chunked body has bytes in between.
    whole = request.clientproto == b"HTTP/1.1" and not request.chunked
    if whole and type(transport) is Server:
        return KernelSender(request, pool, transport)
    if whole and TlsSender.fits(transport):
        return TlsSender(request, pool, transport)
    return _ThreadSender(request, pool)


async def _again(first: list[Piece], others: AsyncGenerator[list[Piece], None]) -> AsyncGenerator[list[Piece], None]:
    """All batches, of which one has been made already."""
    yield first
    async for each in others:
        yield each


class _ThreadSender:
    """Writes by Twisted's ways, over whatever connection; reads in a thread what is not in memory."""

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
        close_all(self._open)


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


class _Watch:
    """Aborts a connection whose source gives nothing for `STALL` seconds: a file system that hangs.

    A caller who takes nothing is seen to by `datahub.web.silence`.
    """

    def __init__(self, request: HubRequest, sender: SocketSender | _ThreadSender) -> None:
        self._request = request
        self._sender = sender
        self._seen = 0
        self._call: IDelayedCall = request.site.reactor.callLater(STALL, self._look)

    def _look(self) -> None:
        moved, left = self._sender.moved, unsent(getattr(self._request.channel, "transport", None))
        if moved == self._seen and not left:
            self._request.abort()
            return
        self._seen = moved
        self._call = self._request.site.reactor.callLater(STALL, self._look)

    def stop(self) -> None:
        if self._call.active():
            self._call.cancel()
