"""What can be done with messages: keep, find, look for, delete. It never sees a request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from twisted.logger import Logger

from datahub.auth import Caller
from datahub.errors import Damaged, InvalidRequest, Mismatch, NotFound, TooLarge
from datahub.events import Actor
from datahub.kit.threads import Pool
from datahub.messages.memory import Memory
from datahub.messages.model import Message, digest_of, parse_digest
from datahub.messages.stores import MessageStore

__all__ = ["MOST", "Messages"]

log = Logger()

MOST = 1000
"""So many messages may be named by one request."""

# Bytes: hashing more than that is done in a thread.
INLINE = 64 * 1024


class Messages:
    """The verbs, on messages of at most ``limit`` bytes; ``admit`` raises when the hub takes nothing new.

    ``trusted`` tells whether `forget` is called, soon, for all that other hubs delete; else the memory is not asked.
    """

    def __init__(
        self,
        store: MessageStore,
        memory: Memory,
        pool: Pool,
        admit: Callable[[], None],
        limit: int,
        trusted: Callable[[], bool],
    ) -> None:
        self._store = store
        self._memory = memory
        self._pool = pool
        self._admit = admit
        self._trusted = trusted
        self.limit = limit
        self.damaged = 0

    async def post(self, content: bytes) -> str:
        """Keep a message and give its digest, once it is in the store."""
        [message], _ = await self._keep([content])
        return message.digest

    async def batch(self, contents: Sequence[bytes]) -> list[str]:
        """Keep messages together, all or none, and give their digests in the same order."""
        _check_count(contents)
        messages, _ = await self._keep(contents)
        return [message.digest for message in messages]

    async def put(self, given: str, content: bytes) -> tuple[str, bool]:
        """Keep the message whose digest is ``given``: its digest, and whether it is new.

        Raises `Mismatch` when the content has another one.
        """
        self._check_size(content)
        digest = await self._digest(content)
        if digest != parse_digest(given):
            raise Mismatch(
                f"the content's SHA-256 is {digest}, not {given[:200]}: it was changed on its way, or misnamed"
            )
        _, new = await self._keep([content])
        return digest, bool(new)

    async def _keep(self, contents: Sequence[bytes]) -> tuple[list[Message], frozenset[str]]:
        for content in contents:
            self._check_size(content)
        self._admit()
        messages = [Message(await self._digest(content), content) for content in contents]
        moment = self._memory.moment
        new = await self._store.put({message.digest: message.content for message in messages})
        for message in messages:
            self._memory.keep(message, moment)
        return messages, new

    def _check_size(self, content: bytes) -> None:
        if len(content) > self.limit:
            raise TooLarge(f"the message has {len(content)} bytes; at most {self.limit} are taken")

    async def _digest(self, content: bytes) -> str:
        if len(content) <= INLINE:
            return digest_of(content)
        return await self._pool.run(digest_of, content)

    def remembered(self, given: str) -> Message | None:
        """The message, if it is in memory."""
        if not self._trusted():
            return None
        return self._memory.find(given) or self._memory.find(given.lower())

    def forget(self, digest: str) -> None:
        """Keep the message in memory no longer: it was deleted, here or elsewhere."""
        self._memory.forget(digest)

    async def find(self, given: str) -> Message:
        """The message with the digest ``given``; raises `NotFound`, or `Damaged` when its content is another."""
        return self.remembered(given) or await self._fetched(given)

    async def _fetched(self, given: str) -> Message:
        digest = parse_digest(given)
        moment = self._memory.moment
        content = None if digest is None else await self._store.get(digest)
        if digest is None or content is None:
            raise _not_found(given)
        if await self._digest(content) != digest:
            raise self._damage(digest)
        message = Message(digest, content)
        self._memory.keep(message, moment)
        return message

    def _damage(self, digest: str) -> Damaged:
        self.damaged += 1
        log.error("the content of message {digest} is damaged: it was changed in the store", digest=digest)
        return Damaged(f"Message {digest} is damaged in the store and is not given out; send it again to mend it")

    async def missing(self, given: Collection[str]) -> list[str]:
        """Those of the digests ``given`` that are not in the store, as they were written."""
        _check_count(given)
        digests = {each: parse_digest(each) for each in given}
        present = await self._store.present({digest for digest in digests.values() if digest})
        return [each for each, digest in digests.items() if digest not in present]

    async def delete(self, given: str, caller: Caller) -> None:
        """Keep the message no longer; raises `NotFound`."""
        digest = parse_digest(given)
        if digest is None:
            raise _not_found(given)
        self._memory.forget(digest)
        actor = Actor(caller.name, caller.kind, caller.address, caller.request)
        there = await self._store.delete(digest, actor)
        # Again: who read it before it was gone may have put it back.
        self._memory.forget(digest)
        if not there:
            raise _not_found(given)

    async def check(self) -> str | None:
        """Say how the messages are: None when all is fine."""
        reason = await self._store.check()
        if reason is None and self.damaged:
            reason = f"{self.damaged} reads found a damaged message since the start: the log names them"
        return reason


def _not_found(given: str) -> NotFound:
    return NotFound(f"Message not found for hash: {given}", code="message.not_found")


def _check_count(named: Collection[object]) -> None:
    if len(named) > MOST:
        raise InvalidRequest(f"there are {len(named)} messages; at most {MOST} can be named by one request")
