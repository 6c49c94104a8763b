"""Waiting, in tests on the real reactor, for what comes about by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datahub.kit.aio import sleep

__all__ = ["until"]

STEP = 0.02


async def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Return as soon as ``condition`` holds; fail, naming ``what``, when it does not within ``seconds``."""
    from twisted.internet import reactor

    clock: Any = reactor
    for _ in range(int(seconds / STEP)):
        if condition():
            return
        await sleep(STEP, clock)
    raise AssertionError(f"not within {seconds:g} s: {what}")
