"""The progress of transfers that another hub moves."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from datahub.transfers.elsewhere import STALE, SharedProgress
from tests.transfers.depot import Depot


async def test_what_one_hub_moves_the_other_shows():
    """Once a second while something moves, once more when nothing does; a hub that died is forgotten."""
    clock = Clock()
    here: dict[str, int] = {}
    there: dict[str, int] = {}
    one, other = SharedProgress(here, "one:1", clock), SharedProgress(there, "other:1", clock)
    third = SharedProgress({"c": 3}, "third:1", clock)
    sent: list[tuple[str, bytes]] = []

    def signal(name: str, content: bytes) -> None:
        sent.append((name, content))
        other.hear(content)

    await one.tell(signal)
    assert sent == []
    here |= {"a": 400, "b": 1}
    there["b"] = 2
    await one.tell(signal)
    await third.tell(signal)
    assert [dict(each.all) for each in (one, other)] == [{"a": 400, "b": 1}, {"a": 400, "b": 2, "c": 3}]
    here.clear()
    clock.advance(STALE + 1)
    await one.tell(signal)
    assert dict(other.all) == {"b": 2}
    await one.tell(signal)
    assert len(sent) == 3


async def test_a_caller_sees_it():
    """The record tells the bytes, whichever hub is asked."""
    depot: Any = Depot()
    number = depot.submit()
    depot.verbs._moved = SharedProgress(depot.pipeline.moved, "here:1", depot.clock).all
    depot.stage()
    depot.pipeline.moved[number] = 300
    assert depot.seen(number).moved == 300
    depot.end()
