"""Folders are gone through by descriptors: deep ones, and none that a link points to."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from datahub.files import Position, held, make_folder, remove, set_mode, user_name
from tests.files.trees import names_in, open_files


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """An open folder."""
    with held(os.open(tmp_path, os.O_RDONLY)) as opened:
        yield opened


def go_deep(position: Position, depth: int) -> None:
    """Make a chain of folders, and go to its end."""
    for _ in range(depth):
        make_folder("d" * 20, position.folder, 0o755)
        position.enter("d" * 20)


def test_deep_trees(tmp_path: Path, folder: int) -> None:
    """2,000 levels, ten times what a path may be long, are gone down, up and removed."""
    (tmp_path / "top").mkdir()
    with Position(os.dup(folder)) as position:
        position.enter("top")
        go_deep(position, 2000)
        os.close(os.open("file", os.O_CREAT, dir_fd=position.folder))
        assert position.depth == 2001
        while position.depth:
            position.leave()
        assert os.path.samestat(os.fstat(position.folder), os.fstat(folder))
    remove("top", folder)
    assert names_in(tmp_path) == []


def test_no_descriptor_is_left(folder: int) -> None:
    """Going about holds one descriptor, and none at the end."""
    before = open_files()
    with Position(os.dup(folder)) as position:
        go_deep(position, 30)
        assert open_files() == before + 1
    assert open_files() == before


def test_a_link_is_not_entered(tmp_path: Path, folder: int) -> None:
    """A symbolic link to a folder is no folder."""
    (tmp_path / "link").symlink_to("/")
    with Position(os.dup(folder)) as position, pytest.raises(NotADirectoryError):
        position.enter("link")


def test_a_folder_moved_meanwhile(tmp_path: Path, folder: int) -> None:
    """The way up never leads elsewhere."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    with Position(os.dup(folder)) as position:
        position.enter("a")
        position.enter("b")
        (tmp_path / "a" / "b").rename(tmp_path / "c" / "b")
        with pytest.raises(OSError) as caught:
            position.leave()
    assert caught.value.errno == errno.ESTALE


def test_removing_a_tree_spares_what_links_point_to(tmp_path: Path, folder: int) -> None:
    """Links are removed themselves, at the top and below; nothing of that name is fine."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    for tree in ("one", "one/two", "one/three"):
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "link").symlink_to(tmp_path / "kept")
        os.mkfifo(tmp_path / tree / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("one", "link", "nothing"):
        remove(name, folder)
    assert names_in(tmp_path) == ["kept"]
    assert names_in(tmp_path / "kept") == ["file"]


def test_folders_are_made_whatever_the_umask(tmp_path: Path, folder: int) -> None:
    """A made folder has the wanted mode, and one that is there keeps its own."""
    mask = os.umask(0o077)
    try:
        make_folder("new", folder, 0o755)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o755
    (tmp_path / "new").chmod(0o700)
    make_folder("new", folder, 0o755)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_the_group_of_a_shared_folder_stays(tmp_path: Path) -> None:
    """A set-group-id bit that a folder has inherited is kept."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2700)
    with held(os.open(tmp_path / "shared", os.O_RDONLY)) as shared:
        set_mode(shared, 0o755)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o2755


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text can always say who we are."""
    assert user_name()
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_001)
    assert user_name() == "4000000001"
