"""A store of messages that is a dictionary, to stand behind the service in tests of what is above the port."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from twisted.internet.defer import Deferred

from datahub.errors import DatahubError
from datahub.events import Actor
from datahub.kit.threads import InlinePool
from datahub.messages.memory import Memory
from datahub.messages.service import Messages

__all__ = ["Shelf", "service"]


class Shelf:
    """Keeps what it is given; `fault` is raised in place of any answer, and while `held` is set answers wait for it."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.fault: DatahubError | None = None
        self.held: Deferred[None] | None = None

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.fault is not None:
            raise self.fault

    async def put(self, contents: Mapping[str, bytes]) -> frozenset[str]:
        await self._ask("put")
        new = frozenset(contents) - frozenset(self.contents)
        self.contents.update(contents)
        await self._hold()
        return new

    async def get(self, digest: str) -> bytes | None:
        await self._ask("get")
        found = self.contents.get(digest)
        await self._hold()
        return found

    async def present(self, digests: Collection[str]) -> frozenset[str]:
        await self._ask("present")
        return frozenset(digests) & frozenset(self.contents)

    async def delete(self, digest: str, actor: Actor) -> bool:
        await self._ask("delete")
        return self.contents.pop(digest, None) is not None

    async def check(self) -> str | None:
        return None if self.fault is None else str(self.fault)

    async def _hold(self) -> None:
        if self.held is not None:
            await self.held


def service(
    shelf: Shelf, *, limit: int = 1000, room: int = 100_000, admit=lambda: None, trusted=lambda: True
) -> Messages:
    """The verbs on ``shelf``."""
    return Messages(shelf, Memory(room), InlinePool(), admit, limit, trusted)
