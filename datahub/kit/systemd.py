"""The service's side of sd_notify(3): tells systemd how far the daemon is."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from twisted.logger import Logger

__all__ = ["Notifier"]

log = Logger()


class Notifier:
    """Tells whoever listens at ``NOTIFY_SOCKET`` in ``environ``; without one every call does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")

    def ready(self) -> None:
        """Say that all is up."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Say that the stop has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show ``text`` in ``systemctl status``, on one line."""
        self._send("STATUS=" + " ".join(text.split()))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A leading "@" stands for the NUL byte of an abstract socket.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            # Not blocking: a service manager that does not read must not stop the daemon.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as end:
                end.sendto(message.encode(), address)
        except (OSError, ValueError) as error:
            log.warn("systemd was not told {message}: {reason}", message=message, reason=str(error))
