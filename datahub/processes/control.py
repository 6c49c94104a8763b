"""A socket with a JSON object a line, between the supervisor and a warden. Standard library only."""

from __future__ import annotations

import json
import socket
from typing import Any

__all__ = ["Control"]


class Control:
    """A socket with a JSON object a line, in both directions."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.closed = False
        self._buffer = b""

    def lines(self) -> list[bytes]:
        """Give what has come, waiting for something; none at the end of file."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            # Else poll would tell us for ever.
            self.closed = True
            return []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return lines

    def orders(self) -> list[dict[str, Any]]:
        """Give the objects that have come."""
        return [json.loads(line) for line in self.lines()] if not self.closed else []

    def tell(self, what: dict[str, Any], *, must: bool = True) -> bool:
        """Send an object; unless it ``must`` be, only if there is room. What nobody hears is no matter."""
        line = json.dumps(what).encode() + b"\n"
        try:
            sent = 0 if must else self.socket.send(line, socket.MSG_DONTWAIT)
            self.socket.sendall(line[sent:])
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True
