"""Freed memory that the C library would keep."""

from __future__ import annotations

from pathlib import Path

from datahub.kit.memory import give_back


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_is_free_goes_back():
    """Also what lies between blocks that are in use."""
    blocks = [b"x" * 100_000 + b"%d" % number for number in range(800)]
    del blocks[::2]
    before = resident()
    give_back()
    assert resident() < before - 20_000_000
    assert len(blocks) == 400
