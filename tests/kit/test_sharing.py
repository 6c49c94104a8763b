"""One request for all who ask: shared, kept for its time, and no failure kept."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from datahub.kit.aio import start
from datahub.kit.sharing import Shared


class Source:
    """Gives what a test says, when it says so."""

    def __init__(self, ttl: float = 5.0) -> None:
        self.made: list[Deferred[str]] = []
        self.clock = Clock()
        self.shared: Shared[str] = Shared(self.make, ttl, self.clock)

    async def make(self) -> str:
        self.made.append(Deferred())
        return await self.made[-1]


def test_all_who_ask_get_one_answer() -> None:
    """It is made once, and told to each in turns of the reactor."""
    source = Source()
    asked = [start(source.shared.get()) for _ in range(5)]
    assert (len(source.made), source.shared.running) == (1, True)
    source.made[0].callback("found")
    source.clock.pump([0] * 5)
    assert [each.result for each in asked] == ["found"] * 5


def test_it_is_kept_for_its_time() -> None:
    """And made anew afterwards."""
    source = Source()
    asked = start(source.shared.get())
    source.made[0].callback("found")
    source.clock.advance(4.9)
    assert asked.result == start(source.shared.get()).result == "found"
    source.clock.advance(0.1)
    assert (source.shared.fresh, source.shared.last) == (None, "found")
    again = start(source.shared.get())
    source.made[1].callback("anew")
    assert again.result == "anew"


def test_failures_are_told_and_not_kept() -> None:
    """Who asks next gets another try."""
    source = Source()
    asked = [start(source.shared.get()) for _ in range(2)]
    source.made[0].errback(RuntimeError("away"))
    source.clock.pump([0, 0])
    for each in asked:
        with pytest.raises(RuntimeError, match="away"):
            each.result.raiseException()  # type: ignore[attr-defined]
        each.addErrback(lambda _: None)
    start(source.shared.get())
    assert len(source.made) == 2


def test_one_who_leaves_takes_nobody_along() -> None:
    """Neither before nor while it is told."""
    source = Source()
    asked = [start(source.shared.get()) for _ in range(3)]
    asked[0].addErrback(lambda failure: failure.trap(CancelledError) and None)
    asked[0].cancel()
    source.made[0].callback("found")
    asked[2].addErrback(lambda failure: failure.trap(CancelledError) and None)
    asked[2].cancel()
    source.clock.pump([0, 0, 0])
    assert asked[1].result == "found"
