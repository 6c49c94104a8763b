"""A rename that never takes a name from another file, on whatever kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datahub.files import held, rename_new, renaming
from tests.files.trees import names_in


def refuse(*_: object) -> int:
    """A file system that knows no such rename."""
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.fixture(params=["kernel", "no such function", "refused"])
def folder(request: Any, tmp_path: Path, monkeypatch: Any) -> Iterator[int]:
    """An open folder, with each of the ways to rename."""
    if request.param == "no such function":
        monkeypatch.setattr(renaming, "_kernel", None)
    elif request.param == "refused":
        monkeypatch.setattr(renaming, "_kernel", refuse)
    with held(os.open(tmp_path, os.O_RDONLY)) as opened:
        yield opened


def test_a_new_name(tmp_path: Path, folder: int) -> None:
    """What has a free name before it gets it."""
    (tmp_path / "old\udcff").mkdir()
    rename_new("old\udcff", "new\n", folder)
    assert names_in(tmp_path) == ["new\n"]


@pytest.mark.parametrize("taken", ["file", "folder", "link"])
def test_a_taken_name(tmp_path: Path, folder: int, taken: str) -> None:
    """Even an empty folder or a link to nothing keeps its name."""
    (tmp_path / "old").mkdir()
    new = tmp_path / "new"
    if taken == "file":
        new.touch()
    elif taken == "folder":
        new.mkdir()
    else:
        new.symlink_to("nothing")
    before = new.lstat()
    with pytest.raises(FileExistsError):
        rename_new("old", "new", folder)
    assert os.path.samestat(new.lstat(), before)


def test_nothing_to_rename(folder: int) -> None:
    """A name that is gone is an error."""
    with pytest.raises(FileNotFoundError):
        rename_new("old", "new", folder)
