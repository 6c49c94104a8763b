"""Waiting for a record: until it is final, or for each of its changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from random import uniform
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime

from datahub.events.feed import Feed
from datahub.kit.aio import fired, leave

__all__ = ["changes", "until_final"]

T = TypeVar("T")

LOOK_AGAIN = 15.0
"""Seconds: how long a change may stay unseen whose event went astray."""

TICK = 1.0


async def until_final(
    look: Callable[[], Awaitable[T]],
    final: Callable[[T], bool],
    feed: Feed,
    subject: str,
    seconds: float,
    clock: IReactorTime,
) -> T:
    """The record, once it is final or ``seconds`` have passed."""
    until = clock.seconds() + seconds
    while True:
        change = feed.change_of(subject)
        try:
            seen = await look()
            left = until - clock.seconds()
            if final(seen) or left <= 0:
                return seen
            await fired(change, min(left, LOOK_AGAIN), clock)
        finally:
            leave(change)


async def changes(
    look: Callable[[], Awaitable[T]],
    final: Callable[[T], bool],
    touch: Callable[[T], T],
    feed: Feed,
    subject: str,
    beat: float,
    clock: IReactorTime,
) -> AsyncIterator[T | None]:
    """The record now and after each change until it is final; None when it was silent for ``beat`` seconds.

    ``touch`` brings what changes without an event (bytes moved) up to date; it is asked once a second.
    """
    told: T | None = None
    silent_since = clock.seconds()
    while True:
        change = feed.change_of(subject)
        try:
            seen = await look()
            # Not all at the same moment, who have come at the same moment.
            look_at = clock.seconds() + LOOK_AGAIN * uniform(0.5, 1)
            while True:
                if seen != told or clock.seconds() - silent_since >= beat:
                    yield None if seen == told else seen
                    told, silent_since = seen, clock.seconds()
                if final(seen):
                    return
                if await fired(change, TICK, clock) or clock.seconds() >= look_at:
                    break
                seen = touch(seen)
        finally:
            leave(change)
