"""Finding and removing what attempts have left."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import pytest

from datahub.files import Stopped
from datahub.transfers.movers.leftovers import find_leftovers

JOB = str(uuid4())


async def test_what_is_found(place: Any) -> None:
    """Names of attempts anywhere below the root, old enough, files and folders; nothing else, and behind no link."""
    elsewhere = place.archive_root / f".datahub-{JOB}-9.9"
    elsewhere.mkdir()
    file = place.root / "a" / "b" / f".datahub-{JOB}-7.1"
    tree = place.root / f".datahub-{JOB}-7.2"
    for each in (file, tree / "x" / "y", place.root / "a" / ".datahub-other", place.root / "kept"):
        each.parent.mkdir(parents=True, exist_ok=True)
        each.touch()
    (place.root / "link").symlink_to(place.archive_root)
    soon = time.time() + 60
    found = await place.mover.leftovers(soon)
    assert sorted(each.place for each in found) == [f".datahub-{JOB}-7.2", f"a/b/.datahub-{JOB}-7.1"]
    assert {each.transfer for each in found} == {JOB}
    assert await place.mover.leftovers(soon - 3600) == []
    for each in found:
        await place.mover.remove(each)
        await place.mover.remove(each)
    assert await place.mover.leftovers(soon) == []
    assert sorted(each.name for each in place.root.iterdir()) == ["a", "kept", "link"]
    assert elsewhere.exists()


def test_a_root_that_is_away_and_a_look_that_is_stopped(tmp_path: Path) -> None:
    """A mount that is away has no leftovers; a stop ends the look."""
    stop = Event()
    assert find_leftovers(tmp_path / "away", 0, stop) == []
    stop.set()
    with pytest.raises(Stopped):
        find_leftovers(tmp_path, 0, stop)
