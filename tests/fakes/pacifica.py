"""An archive interface on a real socket that answers byte for byte what a test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Factory, Protocol

__all__ = ["FakeArchive", "found", "sent"]

FOUND = (
    "HTTP/1.1 204 No Content\r\nX-Pacifica-Messsage: File was found\r\nX-Content-Length: {size}\r\n"
    "Last-Modified: {mtime}\r\nX-Pacifica-File-Storage-Media: {media}\r\n\r\n"
)


def found(size: object = 3, mtime: str = "1795317557.7232475", media: str = "disk") -> bytes:
    """The answer to HEAD, as version 0.4.2 gives it."""
    return FOUND.format(size=size, mtime=mtime, media=media).encode()


def sent(body: bytes, length: int | None = None, more: str = "") -> bytes:
    """The answer to GET; ``length`` is what it says, by default what is true."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body) if length is None else length}\r\n{more}\r\n".encode() + body


class FakeArchive:
    """``answers`` has the bytes for a method, or what gives them by the path; b"" never answers."""

    def __init__(self, reactor: Any) -> None:
        self.answers: dict[str, bytes | Callable[[str], bytes]] = {}
        self.asked: list[str] = []
        self.close = True
        self._lines: list[Any] = []
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda _: _Line(self)  # type: ignore[method-assign,assignment]
        self._port = reactor.listenTCP(0, factory, interface="127.0.0.1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port.getHost().port}/"

    async def stop(self) -> None:
        """Leave nothing open."""
        await self._port.stopListening()
        for line in self._lines:
            line.transport.abortConnection()


class _Line(Protocol):
    transport: Any

    def __init__(self, archive: FakeArchive) -> None:
        self._archive = archive
        self._head = b""

    def connectionMade(self) -> None:
        self._archive._lines.append(self)

    def dataReceived(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        method, path, _ = self._head.split(b"\r\n")[0].decode().split(" ")
        self._archive.asked.append(f"{method} {path}")
        answer = self._archive.answers.get(method, b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
        answer = answer(path) if callable(answer) else answer
        self._head = b""
        if answer:
            self.transport.write(answer)
            if self._archive.close:
                self.transport.loseConnection()
