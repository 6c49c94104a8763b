"""How long work in a thread is asked to end early."""

from __future__ import annotations

from threading import Event

__all__ = ["Stopped", "check"]


class Stopped(Exception):
    """The work was asked to stop, and has."""


def check(stop: Event) -> None:
    """Raise `Stopped` if ``stop`` is set."""
    if stop.is_set():
        raise Stopped
