"""How far transfers are that other hubs move: told once a second, and kept in memory for a few."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping

import msgspec
from twisted.internet.interfaces import IReactorTime

__all__ = ["Progress", "SharedProgress"]

STALE = 10.0
"""Seconds after which a hub that says nothing more is not believed any more."""


class Progress(msgspec.Struct, frozen=True):
    """The bytes moved so far, by transfer, at the hub ``owner``."""

    owner: str
    moved: dict[str, int]


class SharedProgress:
    """What is moved here (``moved``), and what others say that they have moved; ``all`` is both."""

    def __init__(self, moved: Mapping[str, int], owner: str, clock: IReactorTime) -> None:
        self._moved = moved
        self._owner = owner
        self._clock = clock
        self._heard: dict[str, tuple[float, Mapping[str, int]]] = {}
        self._others: dict[str, int] = {}
        self._told = False
        # Read only: what is written goes to the first, which is the pipeline's.
        self.all: Mapping[str, int] = ChainMap(moved, self._others)  # type: ignore[arg-type]

    async def tell(self, signal: Callable[[str, bytes], None]) -> None:
        """Signal what is moved here; when nothing is any more, that as well, once."""
        if self._moved or self._told:
            signal("progress", msgspec.json.encode(Progress(self._owner, dict(self._moved))))
        self._told = bool(self._moved)

    def hear(self, content: bytes) -> None:
        """Take in what another hub tells."""
        told = msgspec.json.decode(content, type=Progress)
        now = self._clock.seconds()
        self._heard[told.owner] = now, told.moved
        self._heard = {owner: each for owner, each in self._heard.items() if now - each[0] <= STALE}
        self._others.clear()
        for _, moved in self._heard.values():
            self._others.update(moved)
