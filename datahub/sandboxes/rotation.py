"""How logs are rotated, as far as an agent's listing of their folder tells: which file has become which.

A file that is rotated is renamed, ``stdout`` to ``stdout.1``, that to ``stdout.2``, and so on; the number is its *age*,
0 for the one that is written to. A closed file keeps its size and the time of its last change when it is renamed, so
that two listings show by how many rotations they differ.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from datahub.sandboxes.agents import Entry

__all__ = ["OLDEST", "Listing", "Mark", "name_of", "shifts"]

OLDEST: Final = 64


@dataclass(frozen=True, slots=True)
class Mark:
    """What does not change when a file is renamed: its size in bytes, its last change in seconds since 1970."""

    size: int
    mtime: float


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one log: whether there is one that is written to, and the older ones, that of age 1 first.

    Where an age has no file there is None; after the last one there is nothing.
    """

    live: bool
    rotated: tuple[Mark | None, ...]

    @classmethod
    def of(cls, path: str, entries: Iterable[Entry]) -> Listing:
        """What ``entries``, those of the folder of ``path``, have of it."""
        name, live, found = posixpath.basename(path), False, dict[int, Mark]()
        for each in entries:
            base = posixpath.basename(each.path)
            age = base.removeprefix(f"{name}.")
            if base == name:
                live = True
            elif base != age and age.isascii() and age.isdigit() and age[0] != "0" and int(age) <= OLDEST:
                found[int(age)] = Mark(each.size, each.mtime)
        return cls(live, tuple(found.get(age) for age in range(1, max(found, default=0) + 1)))

    @property
    def gaps(self) -> int:
        """How many ages have no file although there are older ones: while it is rotated, for a moment, one more."""
        return self.rotated.count(None)


def name_of(path: str, age: int) -> str:
    """Under which name the file of that age is."""
    return f"{path}.{age}" if age else path


def shifts(old: Listing, new: Listing) -> Iterator[tuple[int, bool]]:
    """By how many rotations ``new`` may differ from ``old``, the likeliest first, and whether the listings say so.

    Those of which they do not say so can be right only if the files' contents do.
    """
    told = [count for count in range(len(new.rotated) + 1) if _shifted(old.rotated, new.rotated, count)]
    yield from ((count, True) for count in told)
    yield from ((count, False) for count in range(len(new.rotated) + 1) if count not in told)


def _shifted(old: tuple[Mark | None, ...], new: tuple[Mark | None, ...], count: int) -> bool:
    """Whether the old files are all where ``count`` rotations put them; the oldest ones may have been removed."""
    kept = new[count:]
    return len(new) <= len(old) + count and kept == old[: len(kept)] and bool(kept or not old or not new)
