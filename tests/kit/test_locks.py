"""A file that one process holds until it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datahub.kit.locks import FileLock

HOLD = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
os.write(file, b"%d\\n" % os.getpid())
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.lock"


def test_one_has_it(path):
    """A second taker is refused and learns who has it; after the release it is free."""
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    assert not second.acquire()
    assert second.holder() == str(os.getpid())
    first.release()
    assert second.acquire()
    second.release()


def test_the_file_stays(path):
    """Removing it would let two processes hold files of one name."""
    lock = FileLock(path)
    lock.acquire()
    inode = path.stat().st_ino
    lock.release()
    assert path.stat().st_ino == inode
    assert lock.acquire()
    assert path.stat().st_ino == inode
    lock.release()


def test_a_killed_holder_leaves_it_free(path):
    """The kernel lets go of it, whatever is in the file; the next holder's number replaces it."""
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lock = FileLock(path)
        assert not lock.acquire()
        assert lock.holder() == str(holder.pid)
        holder.kill()
        holder.wait()
        assert lock.acquire()
        assert lock.holder() == str(os.getpid())
        lock.release()


def test_a_longer_number_leaves_nothing_behind(path):
    """The file holds our process id and nothing of what was there."""
    path.write_text("123456789012345\n")
    lock = FileLock(path)
    assert lock.acquire()
    assert path.read_text() == f"{os.getpid()}\n"
    lock.release()


def test_an_empty_file_has_an_unknown_holder(path):
    """As there is between taking the lock and writing the number."""
    path.write_text("")
    assert FileLock(path).holder() == "unknown"


def test_a_child_does_not_inherit_it(path):
    """A program that the daemon starts must not keep the lock when the daemon has ended."""
    lock = FileLock(path)
    lock.acquire()
    assert not os.get_inheritable(lock._descriptor)
    lock.release()


def test_a_folder_that_is_not_there(tmp_path):
    """Is the caller's to explain."""
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "nowhere" / "lock").acquire()


def test_releasing_what_is_not_held(path):
    """Does nothing, and closes no descriptor of somebody else."""
    lock = FileLock(path)
    lock.release()
    lock.acquire()
    lock.release()
    lock.release()
    assert FileLock(path).acquire()
