"""What an answer is sent from: bytes, and parts of files that must not have changed when their last byte goes out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datahub.errors import Conflict

__all__ = ["FilePart", "Piece", "SourceChanged", "close_all"]


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


def close_all(pieces: Sequence[Piece] | deque[Piece | memoryview]) -> None:
    """Let go of all files, and of the pieces."""
    for piece in pieces:
        if isinstance(piece, FilePart):
            piece.close()
    pieces.clear()  # type: ignore[union-attr]  # lists and deques have it
