"""A port behind which a server appears when the test wants it to."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Thread

__all__ = ["Relay"]


class Relay:
    """Relays connections to ``port`` of this host to the port ``behind``, from `start` to `close`."""

    def __init__(self, port: int, behind: int) -> None:
        self._port = port
        self._behind = behind
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Cut everything."""
        for each in filter(None, [self._listener, *self._sockets]):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                front, _ = listener.accept()
                back = socket.create_connection(("127.0.0.1", self._behind))
                self._sockets += [front, back]
                Thread(target=_pump, args=(front, back), daemon=True).start()
                Thread(target=_pump, args=(back, front), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
