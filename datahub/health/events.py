"""What happened and what there is, over HTTP: /events and /summary."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated

import msgspec

from datahub.auth import Caller
from datahub.errors import InvalidRequest, NotPermitted
from datahub.events import Event
from datahub.events.feed import Feed
from datahub.events.summary import Summary
from datahub.events.tables import Wanted, find
from datahub.kit.aio import fired, leave
from datahub.store import Store
from datahub.web.app import Answer, App, Call
from datahub.web.live import HEARTBEAT, Live

__all__ = ["EventRoutes", "Summarise"]


class EventQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which events, behind which position; ``follow`` goes on with those to come; submitter is me, a name, or *."""

    after: Annotated[int, msgspec.Meta(ge=0)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    type: str = ""
    subject: str = ""
    submitter: str = "me"
    follow: bool = False


class Events(msgspec.Struct, frozen=True):
    """A page of events, and the position to ask for the next ones with."""

    items: list[Event]
    next: int


Summarise = Callable[[], Awaitable[Summary]]


class EventRoutes:
    """The resource of what happened; ``kinds`` has for each kind of record how to sum it up."""

    app = App()

    def __init__(self, store: Store, feed: Feed, kinds: Mapping[str, Summarise]) -> None:
        self._store = store
        self._feed = feed
        self._kinds = kinds

    @app.operation("GET", "/events", scope="read", takes=EventQuery, gives={200: Events})
    async def events(self, call: Call, query: EventQuery) -> Events | Live:
        """Tell what happened, in the order of commits; with follow=1 as it happens."""
        after = _after(call, query)
        if after is None:
            after = self._feed.position if query.follow else 0
        wanted = Wanted(after, query.type or None, query.subject or None, _submitter(call.caller, query.submitter))
        if query.follow:
            return Live(self._follow(wanted))
        found = await self._store.read("events", partial(find, wanted=wanted, limit=query.limit))
        return Events(found, found[-1].position if found else wanted.after)

    async def _follow(self, wanted: Wanted) -> AsyncIterator[Event | None]:
        while True:
            news = self._feed.news(wanted.after)
            try:
                if not await fired(news, HEARTBEAT, self._feed.deadlines):
                    yield None
                    continue
            finally:
                leave(news)
            found, position = await self._feed.after(wanted)
            for each in found:
                yield each
            wanted = Wanted(position, wanted.type, wanted.subject, wanted.submitter)

    @app.operation("GET", "/summary", scope="read", gives={200: None})
    async def summary(self, call: Call) -> Answer:
        """Tell how many records of each kind are in which status, and what ended lately."""
        return Answer(200, {kind: await summarise() for kind, summarise in self._kinds.items()})


def _after(call: Call, query: EventQuery) -> int | None:
    """Where to go on: the parameter, or what a browser's EventSource says when it connects again."""
    if query.after is not None:
        return query.after
    last = call.header("Last-Event-ID")
    if last is None:
        return None
    if not last.isdecimal():
        raise InvalidRequest(f"Last-Event-ID {last[:40]!r} is no position of an event", field="Last-Event-ID")
    return int(last)


def _submitter(caller: Caller, wanted: str) -> str | None:
    """Whose events: one's own, or with ``admin`` those of a name, or of all (None)."""
    name = caller.name if wanted == "me" else wanted
    if name != caller.name and not caller.may("admin"):
        raise NotPermitted(f"submitter {wanted!r}: others' events need the scope admin")
    return None if name == "*" else name
