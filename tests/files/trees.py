"""Trees of real files with odd names: dictionaries of names to bytes or to such dictionaries."""

from __future__ import annotations

import os
import stat
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st

from datahub.files import Position, held, make_folder, remove

__all__ = ["TREES", "build", "deep", "flat", "names_in", "open_files", "read", "result_of"]

T = TypeVar("T")

ANY_NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: name not in {b".", b".."} and not set(name) & {0, ord("/")}
)
# Names whose order differs with and without the '/' of a folder, and those that sha256sum escapes.
NEAR_NAMES = st.sampled_from([b"a", b"a.", b"a-", b"a0", b"a\n", b"a\\", b"a\r", b"\xff", b"b"])
NAMES = NEAR_NAMES | ANY_NAMES
FILES = st.binary(max_size=50)
TREES = st.dictionaries(
    NAMES, st.recursive(FILES, lambda below: st.dictionaries(NAMES, below, max_size=4), max_leaves=12), max_size=6
)


def build(path: Path, tree: Any) -> None:
    """Make a tree."""
    if isinstance(tree, bytes):
        path.write_bytes(tree)
        return
    path.mkdir()
    for name, below in tree.items():
        build(path / os.fsdecode(name), below)


def read(path: Path) -> Any:
    """Read a tree, empty folders too."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        return path.read_bytes()
    return {os.fsencode(each.name): read(each) for each in path.iterdir()}


def flat(tree: Any, path: bytes = b"") -> dict[bytes, bytes]:
    """Give the files of a tree by path."""
    if isinstance(tree, bytes):
        return {path: tree}
    found: dict[bytes, bytes] = {}
    for name, below in tree.items():
        found |= flat(below, path + b"/" + name if path else name)
    return found


@contextmanager
def deep(root: Path, top: str, name: str, depth: int) -> Iterator[int]:
    """Give the lowest of a chain of folders, and remove the chain: pytest's own tidying takes no such depth."""
    with held(os.open(root, os.O_RDONLY)) as folder:
        with Position(os.dup(folder)) as position:
            for each in [top] + [name] * depth:
                make_folder(each, position.folder, 0o755)
                position.enter(each)
            yield position.folder
        remove(top, folder)


def names_in(folder: Path) -> list[str]:
    """List a folder."""
    return sorted(each.name for each in folder.iterdir())


def open_files() -> int:
    """Count this process's descriptors."""
    return len(names_in(Path("/proc/self/fd")))


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError(f"{coroutine} waits")
