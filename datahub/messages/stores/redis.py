"""Messages in Redis: ``redis://``, the key a digest, the value the content, as older installations have them.

A put is acknowledged when Redis has; whether it is on disk by then is a matter of its ``appendfsync``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from twisted.application.internet import ClientService
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from txredisapi import RedisError, RedisProtocol, ResponseError

from datahub.errors import Damaged, DatahubError, NoSpace, Unavailable
from datahub.events import Actor
from datahub.kit.aio import gather, sleep, start, within
from datahub.messages.books import Books

__all__ = ["RedisMessages"]

log = Logger()

PORT = 6379
# Seconds: for an answer, for a connection that is being made, and until it is tried again.
ANSWER, CONNECT, AGAIN = 5.0, 1.0, 0.5
FULL = "OOM "
WRONG_TYPE = "WRONGTYPE "


class RedisMessages:
    """The port `datahub.messages.stores.MessageStore` on the Redis at ``url``, by one connection that comes back.

    A connection on which an answer is late is given up: what comes later would be taken for the answer to
    something else.
    """

    def __init__(self, url: str, books: Books, reactor: Any) -> None:
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or PORT
        self._place = f"{host}:{port}"
        self._credentials = [unquote(each) for each in (parts.username, parts.password) if each]
        self._number = parts.path.strip("/")
        self._books = books
        self._reactor = reactor
        self._connection: Any = None
        self._fault = "it is not connected yet"
        self._service: Any = ClientService(
            HostnameEndpoint(reactor, host, port, timeout=CONNECT),
            Factory.forProtocol(_protocol),
            retryPolicy=lambda _: AGAIN,
            clock=reactor,
            prepareConnection=lambda connection: start(self._prepare(connection)),
        )

    def start(self) -> None:
        """Begin to connect; a Redis that is away is tried for as long as the hub runs."""
        self._service.startService()

    async def stop(self) -> None:
        """Close the connection."""
        await self._service.stopService()

    async def put(self, contents: Mapping[str, bytes]) -> frozenset[str]:
        """Set all keys by one command."""
        if not contents:
            return frozenset()
        if len(contents) == 1:
            return await self._put_one(*next(iter(contents.items())))
        pairs = (each for pair in contents.items() for each in pair)
        # Redis does one after the other, so this tells what was there before.
        there = start(self.present(contents))
        await self._ask("MSET", *pairs)
        return frozenset(contents) - await there

    async def _put_one(self, digest: str, content: bytes) -> frozenset[str]:
        if await self._ask("SET", digest, content, "NX") is not None:
            return frozenset([digest])
        # Set again: what is there may be damaged.
        await self._ask("SET", digest, content)
        return frozenset()

    async def get(self, digest: str) -> bytes | None:
        """Get the key's value."""
        content: bytes | None = await self._ask("GET", digest)
        return content

    async def present(self, digests: Collection[str]) -> frozenset[str]:
        """Ask for each of the keys, without waiting in between."""
        found = await gather(*(self._ask("EXISTS", digest) for digest in digests))
        return frozenset(digest for digest, count in zip(digests, found, strict=True) if count)

    async def delete(self, digest: str, actor: Actor) -> bool:
        """Delete the key, then tell so in the hub's database."""
        gone = bool(await self._ask("DEL", digest))
        if gone:
            await self._books.struck(digest, actor)
        return gone

    async def check(self) -> str | None:
        """Ask Redis for a sign of life."""
        try:
            await self._ask("PING")
        except (Unavailable, NoSpace) as error:
            return f"Redis at {self._place}: {self._fault or error}"
        return None

    async def _ask(self, *command: str | bytes) -> Any:
        """Send a command and give its answer: bytes, text, a number, or None."""
        connection = self._connection or await self._connected()
        return await self._asked(connection, *command)

    async def _asked(self, connection: Any, *command: str | bytes) -> Any:
        try:
            return await within(ANSWER, connection.execute_command(*command), self._reactor, "the answer")
        except ResponseError as error:
            raise self._told(str(command[0]), str(error)) from error
        except RedisError as error:
            raise Unavailable("the message store went away before it answered: ask again") from error
        except TimeoutError as error:
            self._note(str(error))
            connection.transport.abortConnection()
            raise Unavailable(f"the message store gave no answer within {ANSWER:g} s") from error

    def _told(self, command: str, text: str) -> DatahubError:
        """What Redis refuses, in the hub's words."""
        log.error("Redis at {place} refuses {command}: {text}", place=self._place, command=command, text=text)
        if text.startswith(FULL):
            return NoSpace("the message store has no room for more")
        if text.startswith(WRONG_TYPE):
            return Damaged("what the message store keeps under this digest is no message")
        return Unavailable("the message store refuses to work: the operator finds the reason in the log")

    async def _connected(self) -> Any:
        """Wait for the connection, if it is about to come."""
        try:
            await within(CONNECT, self._service.whenConnected(failAfterFailures=1), self._reactor, "the connection")
        except CancelledError:
            raise
        except Exception as error:
            self._note(str(error))
        # ClientService tells us in the middle of its own doings, and must not be stopped there.
        await sleep(0, self._reactor)
        if self._connection is None:
            raise Unavailable("the message store is away")
        return self._connection

    async def _prepare(self, connection: Any) -> None:
        """Make a new connection fit for use."""
        try:
            if self._credentials:
                await self._asked(connection, "AUTH", *self._credentials)
            if self._number:
                await self._asked(connection, "SELECT", self._number)
        except (Unavailable, NoSpace, Damaged):
            connection.transport.abortConnection()
            raise
        connection.whenDisconnected().addCallback(self._lost)
        self._connection, self._fault = connection, ""
        log.info("Redis at {place} is connected", place=self._place)

    def _lost(self, _: object) -> None:
        self._connection = None
        self._note("the connection was closed")

    def _note(self, fault: str) -> None:
        """Log a fault when it is new: a Redis that is away fills no log."""
        if not self._fault:
            log.warn("Redis at {place}: {fault}", place=self._place, fault=fault)
        self._fault = fault or "it is away"


def _protocol() -> Any:
    # Bytes stay bytes, and those that look like a number as well.
    return RedisProtocol(charset=None, convertNumbers=False)
