"""How an FTS server, or what stands before it, treats requests when it does not answer them as it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

from datahub.kit.aio import sleep

__all__ = ["MANNERS", "flood"]

BLOCK = 64 * 1024


@implementer(IPullProducer)
class Flood:
    """Writes an answer as long as somebody reads it, and counts the bytes."""

    def __init__(self, fake: Any, request: Any) -> None:
        self._fake = fake
        self._request = request

    def resumeProducing(self) -> None:
        """Write some more."""
        self._fake.sent += BLOCK
        self._request.write(b" " * BLOCK)

    def stopProducing(self) -> None:
        """Nobody reads it any more."""


async def flood(fake: Any, request: Any) -> bytes:
    """Give an answer without end, which may say how large it is; ``fake`` counts what was ``sent``."""
    if fake.manner == "huge":
        request.setHeader("Content-Length", "1000000000")
    request.registerProducer(Flood(fake, request), False)
    return bytes(await Deferred())


async def hang(request: Any) -> bytes:
    """Never answer."""
    return bytes(await Deferred())


async def reset(request: Any) -> bytes:
    """Cut the connection."""
    request.transport.abortConnection()
    return bytes(await Deferred())


async def half(request: Any) -> bytes:
    """Begin an answer, and never end it."""
    request.setHeader("Content-Length", "1000")
    request.write(b'{"job')
    return bytes(await Deferred())


async def drips(request: Any) -> bytes:
    """Answer a byte now and then, without end."""
    from twisted.internet import reactor

    while True:
        request.write(b" ")
        await sleep(0.1, cast(Any, reactor))


async def page(_: Any) -> bytes:
    """Be another server altogether."""
    return b"<html><body><h1>Welcome</h1></body></html>"


async def others(request: Any) -> bytes | None:
    """Answer about another job than was asked about."""
    asks = request.method == b"GET" and request.path.startswith(b"/jobs/")
    return b'{"job_id": "another", "job_state": "FINISHED", "files": []}' if asks else None


async def odd(request: Any) -> bytes | None:
    """Say of each job what nobody has heard of."""
    if request.method != b"GET" or not request.path.startswith(b"/jobs/"):
        return None
    jobs = [
        {"job_id": each, "job_state": "PONDERING", "http_status": "200 Ok", "files": [{"file_state": "PONDERED"}]}
        for each in request.path.decode().rpartition("/")[2].split(",")
    ]
    return json.dumps(jobs if len(jobs) > 1 else jobs[0]).encode()


async def broken(request: Any) -> bytes:
    """Be in trouble, in a page for people."""
    request.setResponseCode(503)
    return b"<html><body><h1>Service Unavailable</h1></body></html>"


async def banned(request: Any) -> bytes:
    """Not let anybody in."""
    request.setResponseCode(403)
    return b"<html><body>The user has been banned</body></html>"


async def lost(request: Any) -> bytes:
    """Not be there, as a front says whose server has moved."""
    request.setResponseCode(404)
    return b"<html><body><h1>Not Found</h1></body></html>"


async def slow(_: Any) -> None:
    """Take a while for all that it does."""
    from twisted.internet import reactor

    await sleep(0.02, cast(Any, reactor))


async def unknown_caller(request: Any) -> bytes:
    """Not know who asks."""
    request.setResponseCode(401)
    return b"<html><body>A valid X509 certificate or proxy is needed</body></html>"


async def elsewhere(request: Any) -> bytes:
    """Be at another address."""
    request.setResponseCode(302)
    request.setHeader("Location", "https://elsewhere.example.org:8446/whoami")
    return b""


async def lies(request: Any) -> bytes:
    """Answer with what is no answer."""
    return b'{"job_state": 7, "files": "many"}'


MANNERS: dict[str, Callable[[Any], Any]] = {
    each.__name__: each
    for each in (
        hang,
        reset,
        half,
        drips,
        page,
        others,
        odd,
        broken,
        banned,
        unknown_caller,
        lost,
        slow,
        elsewhere,
        lies,
    )
}
