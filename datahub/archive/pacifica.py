"""An archive behind a Pacifica archive interface: files are staged by POST, looked at by HEAD, fetched by GET.

The protocol is that of pacifica-archiveinterface 0.4.2 (and of the README of 2017, whose HEAD has a plain
Content-Length). It serves one file at a time, answers 500 to what is missing, and may end a body early in good order:
so nothing is believed that was not counted and hashed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from datahub import __version__
from datahub.archive import Entry, Faulty, Product
from datahub.errors import FinalFault, PassingFault
from datahub.files import new_digest
from datahub.kit.aio import cancellable, within
from datahub.kit.threads import Pool, outlasting

__all__ = ["NoProducts", "PacificaArchive", "Patience", "Standing"]

pool_factory: Any = HTTPConnectionPool._factory  # noqa: SLF001 - there is no public name

STEP: Final = 1024 * 1024
SHOWN: Final = 200
LARGEST: Final = 10**15
"""The bytes of a file that are believed."""
LATEST: Final = 2**63 - 1
"""Nanoseconds since 1970 that a database and a file system can keep: the year 2262."""
LATER: Final = (408, 425, 429)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: to connect, until an answer begins, and between two parts of a file."""

    connect: float = 10.0
    answer: float = 120.0
    stall: float = 60.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a file stands in the archive: its bytes, its time, and whether it can be fetched now."""

    size: int
    mtime_ns: int
    on_disk: bool


class PacificaArchive:
    """The archive interface at ``url``."""

    def __init__(self, url: str, pool: Pool, reactor: Any, patience: Patience | None = None) -> None:
        self._url = url.rstrip("/")
        self._pool = pool
        self._reactor: IReactorTime = reactor
        self._patience = patience or Patience()
        # A connection for each request: some versions answer wrongly on one that is kept.
        connections = HTTPConnectionPool(reactor, persistent=False)
        connections._factory = _Quiet  # noqa: SLF001 - else each connection writes two lines to the log
        self._agent = Agent.usingEndpointFactory(reactor, _Ways(reactor, self._patience.connect), connections)

    async def stage(self, name: str) -> None:
        """Ask for a file to be made ready; raises `FinalFault`, `Faulty`, `PassingFault`."""
        response = await self._ask(b"POST", name)
        body = await self._small(response)
        _judge(response.code, name, body)

    async def look(self, name: str) -> Standing:
        """Say how a file stands; raises as `stage` does."""
        response = await self._ask(b"HEAD", name)
        _judge(response.code, name, b"")
        headers = {key.decode("latin-1").lower(): values[-1].decode("latin-1") for key, values in _pairs(response)}
        media = headers.get("x-pacifica-file-storage-media")
        if media is None or media == "error":
            raise Faulty(f"the archive does not say on which medium {name!r} is")
        size = _size(headers, name)
        return Standing(size, _mtime(headers.get("last-modified"), name), media == "disk")

    async def fetch(
        self, name: str, target: int, size: int, algorithms: Iterable[str], progress: Callable[[int], None]
    ) -> dict[str, str]:
        """Write a file of ``size`` bytes to the open ``target``, and give its digests by algorithm.

        Raises `Faulty` if the archive sends less or more, besides what `stage` raises, and `OSError` of the target.
        """
        response = await self._ask(b"GET", name)
        if response.code != 200:
            _judge(response.code, name, await self._small(response))
            raise Faulty(f"the archive answered {response.code} to a GET of {name!r}")
        encoding = response.headers.getRawHeaders("Content-Encoding", ["identity"])[-1]
        if encoding != "identity":
            _discard(response)
            raise Faulty(f"the archive sends {name!r} in the encoding {encoding!r}, which nobody asked for")
        writer = _Writer(self._pool, target, size, algorithms, progress)
        try:
            response.deliverBody(writer)
            await self._watched(writer, name)
        finally:
            writer.leave()
            # Whoever is told of the end closes the file, and its number may be another's the next moment.
            await writer.quiet()
        if writer.done != size:
            raise Faulty(f"the archive sent {writer.done} bytes of {name!r}, which has {size}")
        return {algorithm: digest.hexdigest() for algorithm, digest in writer.digests.items()}

    async def _watched(self, writer: _Writer, name: str) -> None:
        """Wait for the end of a body, as long as it goes on."""
        while not writer.ended:
            news = writer.news()
            try:
                await within(self._patience.stall, news, self._reactor, f"the next part of {name!r}")
            except TimeoutError as error:
                raise PassingFault(f"the archive is silent: {error}") from None
        if writer.failure is not None:
            raise writer.failure

    async def _ask(self, method: bytes, name: str) -> Any:
        url = f"{self._url}/{quote(name, safe='/', errors='surrogateescape')}".encode("ascii")
        headers = Headers({"User-Agent": [f"datahub/{__version__}"], "Accept-Encoding": ["identity"]})
        # Its server wants a length for each POST.
        body = FileBodyProducer(_Empty()) if method == b"POST" else None
        asking = cancellable(self._agent.request(method, url, headers, body))
        try:
            return await within(self._patience.answer, asking, self._reactor, "the answer of the archive")
        except TimeoutError as error:
            raise PassingFault(f"the archive is silent: {error}") from None
        except CancelledError:
            raise
        except Exception as error:
            raise PassingFault(f"the archive can't be reached: {_cause(error)}") from error

    async def _small(self, response: Any) -> bytes:
        reading = _Opening()
        response.deliverBody(reading)
        try:
            await within(self._patience.stall, reading.ended, self._reactor, "the end of an answer")
        except TimeoutError:
            pass  # the status has told what counts
        return bytes(reading.data)


class NoProducts:
    """The products of such an archive, for who would deliver them: there are none, as it can't be listed."""

    async def locate(self, product_id: str) -> Product:
        """Raise `FinalFault`."""
        raise FinalFault(
            f"product {product_id!r} is in an archive that only carts can be filled from: see [archive] url"
        )

    def walk(self, product: Product) -> Iterator[Entry]:
        """Raise `FinalFault`."""
        raise FinalFault(f"product {product.id!r} can't be listed")

    def open(self, product: Product, entry: Entry) -> int:
        """Raise `FinalFault`."""
        raise FinalFault(f"product {product.id!r} can't be opened: {entry.path}")


@implementer(IAgentEndpointFactory)
class _Ways:
    """How the archive is reached: straight, where its URL has an address and no name.

    To look for the addresses of a name that is one takes a fifth of the time in which a small file is fetched.
    """

    def __init__(self, reactor: Any, timeout: float) -> None:
        self._reactor = reactor
        self._timeout = timeout

    def endpointForURI(self, uri: Any) -> Any:  # noqa: N802 - Twisted's name
        host = uri.host.decode("ascii")
        kind = TCP4ClientEndpoint if isIPAddress(host) else HostnameEndpoint
        return kind(self._reactor, host, uri.port, timeout=self._timeout)


class _Quiet(pool_factory):  # type: ignore[misc]  # Twisted has no public name for it
    noisy = False


class _Empty:
    """A body of no bytes."""

    def read(self, _: int) -> bytes:
        return b""

    def seek(self, *_: int) -> int:
        return 0

    def tell(self) -> int:
        return 0

    def close(self) -> None: ...


def _pairs(response: Any) -> Iterable[tuple[bytes, list[bytes]]]:
    found: Iterable[tuple[bytes, list[bytes]]] = response.headers.getAllRawHeaders()
    return found


def _judge(code: int, name: str, body: bytes) -> None:
    """Raise what an answer means that is no success."""
    if 200 <= code < 300:
        return
    if code in (404, 410):
        raise FinalFault(f"{name!r} is not in the archive")
    if b"No such file" in body or b"FileNotFoundError" in body:
        raise FinalFault(f"{name!r} is not in the archive")
    # A plain 500 is how it fails at one file: a few tries. Whoever is away or overloaded says so otherwise.
    if code in LATER or code > 500:
        raise PassingFault(f"the archive answered {code} for {name!r}")
    # What it says in its body is a traceback of its own, which is nobody else's.
    raise Faulty(f"the archive answered {code} for {name!r}")


def _size(headers: Mapping[str, str], name: str) -> int:
    # The second was how it was told in 2017.
    told = headers.get("x-content-length", headers.get("content-length"))
    if told is None or not re.fullmatch("[0-9]{1,18}", told) or int(told) > LARGEST:
        raise Faulty(f"the archive says that {name!r} has {(told or 'no')[:SHOWN]!r} bytes")
    return int(told)


def _mtime(told: str | None, name: str) -> int:
    """Nanoseconds since 1970: the interface sends a decimal number of seconds, others an HTTP date."""
    try:
        if re.fullmatch(r"-?[0-9]{1,11}(\.[0-9]{0,20})?", told or ""):
            found = int(Decimal(told or "") * 10**9)
        else:
            found = int(parsedate_to_datetime(told or "").timestamp()) * 10**9
        if abs(found) > LATEST:
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise Faulty(f"the archive says that {name!r} was last modified {(told or 'never')[:SHOWN]!r}") from None
    return found


class _Opening(Protocol):
    """The beginning of a body."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended: Deferred[None] = Deferred(lambda _: _abort(self.transport))

    def dataReceived(self, data: bytes) -> None:
        if len(self.data) < 16 * STEP // 256:
            self.data += data

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008 - as Twisted's
        if not self.ended.called:
            self.ended.callback(None)


class _Writer(Protocol):
    """Writes a body to a file in a thread; while that is behind, the archive waits."""

    def __init__(
        self, pool: Pool, target: int, size: int, algorithms: Iterable[str], progress: Callable[[int], None]
    ) -> None:
        self.digests = {each: new_digest(each) for each in algorithms}
        self.done = 0
        self.ended = False
        self.failure: Exception | None = None
        self._pool = pool
        self._target = target
        self._size = size
        self._progress = progress
        self._parts: list[bytes] = []
        self._held = 0
        self._writing: Deferred[None] | None = None
        self._over = False
        self._news: Deferred[None] = Deferred()

    def news(self) -> Deferred[None]:
        """Fires when anything was written, or all has ended."""
        self._news = Deferred()
        return self._news

    def dataReceived(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        if self.done + self._held > self._size:
            self._fail(Faulty(f"the archive sends more than the {self._size} bytes that it told of"))
        elif self._held >= STEP:
            self._producer("pauseProducing")
            self._write()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008 - as Twisted's
        self._over = True
        # A body without a length that is cut off looks whole: the count will tell.
        if not self._parts:
            self._end()
        else:
            self._write()

    def _write(self) -> None:
        if self._writing is not None or self.ended:
            return
        data, self._parts, self._held = b"".join(self._parts), [], 0
        self._writing = Deferred.fromCoroutine(self._pool.run(self._put, data))
        self._writing.addCallbacks(self._written, self._not_written, callbackArgs=(len(data),))

    def _put(self, data: bytes) -> None:
        view, at = memoryview(data), self.done
        for digest in self.digests.values():
            digest.update(view)
        while view:
            count = os.pwrite(self._target, view, at)
            view, at = view[count:], at + count

    def _written(self, _: object, count: int) -> None:
        self._writing = None
        self.done += count
        self._progress(count)
        self._tell()
        if self.ended:
            return
        if self._parts and (self._over or self._held >= STEP):
            self._write()
        elif self._over:
            self._end()
        else:
            self._producer("resumeProducing")

    def _not_written(self, failure: Failure) -> None:
        self._writing = None
        error = failure.value
        self._fail(error if isinstance(error, Exception) else PassingFault(str(error)))

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        self._parts = []
        self._end()
        self.leave()

    def _end(self) -> None:
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        if not self._news.called:
            self._news.callback(None)

    def _producer(self, what: str) -> None:
        if self.transport is not None and not self._over:
            getattr(self.transport, what)()

    async def quiet(self) -> None:
        """Wait until no thread writes any more, also when cancelled meanwhile."""
        if self._writing is not None:
            await outlasting(self._writing)

    def leave(self) -> None:
        """Cut the connection, if there is still one."""
        self.ended = True
        if not self._over:
            _abort(self.transport)


def _discard(response: Any) -> None:
    reading = _Opening()
    response.deliverBody(reading)
    _abort(reading.transport)


def _abort(transport: Any) -> None:
    """Close a connection now: in good order a hanging peer would have to do its part."""
    inner = getattr(transport, "_producer", None)
    chosen = inner if hasattr(inner, "abortConnection") else transport
    leave = getattr(chosen, "abortConnection", None) or getattr(chosen, "loseConnection", None)
    if leave is not None:
        leave()


def _cause(error: Exception) -> str:
    reasons = getattr(error, "reasons", None)
    if reasons:
        return _cause(reasons[0].value)
    return str(error).rstrip(".") or type(error).__name__
