"""The part of the disk that is kept free."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from datahub.errors import NoSpace
from datahub.files import reserve as reserve_module
from datahub.files.reserve import EVERY, Reserve
from datahub.kit.aio import start
from datahub.kit.threads import InlinePool

LEAST = 2_000_000_000


class Disk:
    """A file system whose free space the test sets; an `OSError` is raised."""

    def __init__(self):
        self.free = 3_000_000_000
        self.asked = 0

    def statvfs(self, folder):
        self.asked += 1
        if isinstance(self.free, OSError):
            raise self.free
        # What root alone may use, f_bfree, is more and not for us.
        return SimpleNamespace(f_bavail=self.free // 4096, f_bfree=10**9, f_frsize=4096, f_bsize=1)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(reserve_module, "os", disk)
    return disk


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def reserve(disk, clock, tmp_path):
    reserve = Reserve(tmp_path, LEAST, InlinePool(), clock)
    reserve.start()
    yield reserve
    assert start(reserve.stop()).called
    assert clock.getDelayedCalls() == []


def test_with_room_work_is_taken(reserve):
    """From the first measurement on."""
    assert reserve.low() is None
    reserve.admit()


def test_below_the_reserve_it_is_refused(reserve, disk, clock):
    """Within seconds; the text names the folder, both sizes and the key."""
    disk.free = 1_000_001_536
    clock.advance(EVERY)
    with pytest.raises(NoSpace, match=r"has 1 GB free, less than the 2 GB that \[hub\] min_free keeps") as refused:
        reserve.admit()
    assert str(refused.value) == reserve.low()
    disk.free = LEAST + 4096
    clock.advance(EVERY)
    reserve.admit()


def test_it_is_said_once(reserve, disk, clock):
    """When it becomes low and when there is room again, not each time it is measured."""
    with capturedLogs() as events:
        disk.free = 0
        clock.pump([EVERY] * 5)
        assert len(events) == 1
        disk.free = 3_000_000_000
        clock.pump([EVERY] * 5)
    assert [event["told"].endswith("new work is taken") for event in events] == [False, True]
    assert disk.asked == 11


def test_a_disk_that_can_not_be_asked(reserve, disk, clock):
    """Changes nothing, is in the log, and is asked again."""
    disk.free = 0
    clock.advance(EVERY)
    disk.free = OSError(5, "Input/output error")
    with capturedLogs() as events:
        clock.advance(EVERY)
    assert "Input/output error" in events[0]["error"]
    assert reserve.low() is not None
    disk.free = 3_000_000_000
    clock.advance(EVERY)
    assert reserve.low() is None


def test_before_it_has_been_measured(tmp_path, clock):
    """Nobody is refused."""
    reserve = Reserve(tmp_path, LEAST, InlinePool(), clock)
    reserve.admit()
    assert reserve.low() is None


async def test_a_real_disk(tmp_path, clock):
    """Has more than nothing and less than everything."""
    small, large = Reserve(tmp_path, 1, InlinePool(), clock), Reserve(tmp_path, 2**70, InlinePool(), clock)
    await small.look()
    await large.look()
    assert small.low() is None
    assert str(large.low()).startswith(f"{os.fspath(tmp_path)} has ")
