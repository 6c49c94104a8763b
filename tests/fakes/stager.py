"""A stager that speaks the DELIV prototype's protocol, as a process of its own that may be told to misbehave.

``python -m tests.fakes.stager PORT PRODUCTS STAGED`` links what it is asked for from one folder into the other and
calls back. `tests.whole.stager` starts it, tells it how to behave, and asks what it was asked.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any
from urllib.parse import urlencode

import treq
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.web.server import Site

from datahub.kit.aio import Task

__all__ = ["HOST", "MANNERS", "FakeStager", "stage"]

HOST = "gridftp.example.org"
FIELDS = ("job_id", "product_id", "authcode", "callback")
JSON = "application/json"


def stage(products: Path, staged: Path, product: str) -> Path:
    """Make a product visible under a name of its own."""
    source, target = products / product, staged / uuid.uuid4().hex / product
    target.parent.mkdir(parents=True)
    if source.is_dir():
        copytree(source, target)
    else:
        os.link(source, target)
    return target


class FakeStager:
    """The application; ``manner`` says how it treats the next requests."""

    app = Klein()

    def __init__(self, products: Path, staged: Path, reactor: Any) -> None:
        self.products = products
        self.staged = staged
        self.reactor = reactor
        self.manner = "works"
        self.asked: list[dict[str, str]] = []
        self.answers: list[tuple[int, str]] = []
        self.tasks: list[Task] = []

    @app.route("/", methods=["GET", "POST"])
    async def request(self, request: Any) -> Any:
        """Be asked to stage a product."""
        fields = {name: request.args[name.encode()][0].decode() for name in FIELDS}
        fields["method"] = request.method.decode()
        fields["authorization"] = request.getHeader("authorization") or ""
        self.asked.append(fields)
        return await MANNERS[self.manner](self, request, fields)

    @app.route("/manner", methods=["PUT"])
    def behave(self, request: Any) -> bytes:
        """Be told how to behave."""
        self.manner = request.content.read().decode()
        return b"{}"

    @app.route("/seen", methods=["GET"])
    def tell(self, request: Any) -> bytes:
        """Tell what was asked, and what came back on reports."""
        return json.dumps({"asked": self.asked, "answers": self.answers}).encode()

    def later(self, fields: dict[str, str], *, times: int = 1, pause: float = 0.1) -> None:
        """Do the work and report it, after the answer."""

        async def work() -> None:
            await deferLater(self.reactor, pause)
            report = self.work(fields)
            for _ in range(times):
                await self.report(fields, report)

        self.tasks.append(Task("report", work()))

    def work(self, fields: dict[str, str]) -> dict[str, str]:
        """Stage, and give the report."""
        product = fields["product_id"]
        try:
            path = stage(self.products, self.staged, product)
        except OSError:
            done, told = "", f"Error copying product ID {product} from {self.products} to {self.staged}"
        else:
            done, told = str(path), f"Product {product} staged successfully to {path}"
        known = {name: fields[name] for name in ("job_id", "product_id", "authcode")}
        return {**known, "success": str(bool(done)), "staged_to": HOST, "path": done, "msg": told}

    async def report(self, fields: dict[str, str], report: dict[str, str]) -> None:
        """Call back, as the prototype's stager does: by GET."""
        response = await treq.get(f"{fields['callback']}?{urlencode(report)}", reactor=self.reactor, persistent=False)
        self.answers.append((response.code, await response.text()))


def _json(request: Any, code: int, status: str) -> bytes:
    request.setResponseCode(code)
    request.setHeader("Content-Type", JSON)
    return json.dumps({"status": status}).encode()


def _queued(request: Any, fields: dict[str, str]) -> bytes:
    return _json(request, 200, f"Request for product ID {fields['product_id']} queued")


async def works(stager: FakeStager, request: Any, fields: dict[str, str]) -> bytes:
    """Take it, do it, report it."""
    stager.later(fields)
    return _queued(request, fields)


async def twice(stager: FakeStager, request: Any, fields: dict[str, str]) -> bytes:
    """Report it two times."""
    stager.later(fields, times=2)
    return _queued(request, fields)


async def early(stager: FakeStager, request: Any, fields: dict[str, str]) -> bytes:
    """Report it before the answer."""
    await stager.report(fields, stager.work(fields))
    return _queued(request, fields)


async def mute(stager: FakeStager, request: Any, fields: dict[str, str]) -> bytes:
    """Take it, and never report."""
    return _queued(request, fields)


async def lost(stager: FakeStager, request: Any, fields: dict[str, str]) -> Any:
    """Take it, and cut the connection instead of an answer."""
    stager.later(fields, pause=0.4)
    request.transport.abortConnection()
    return Deferred()


async def hang(stager: FakeStager, request: Any, fields: dict[str, str]) -> Any:
    """Never answer."""
    return await Deferred()


async def drip(stager: FakeStager, request: Any, fields: dict[str, str]) -> Any:
    """Take it, with an answer that never ends."""
    return await _pour(request, b"x", 0.2)


async def flood(stager: FakeStager, request: Any, fields: dict[str, str]) -> Any:
    """Take it, with an answer as large as the connection takes."""
    return await _pour(request, b"x" * 100_000, 0.001)


async def _pour(request: Any, data: bytes, pause: float) -> None:
    gone = request.notifyFinish()
    pouring = LoopingCall(request.write, data)
    pouring.start(pause).addErrback(lambda _: None)
    gone.addBoth(lambda _: pouring.stop())
    await Deferred()


async def garbage(stager: FakeStager, request: Any, fields: dict[str, str]) -> Any:
    """Speak something else than HTTP."""
    request.channel.transport.write(b"220 gridftp ready\r\n\0\xff\r\n\r\n")
    request.channel.transport.loseConnection()
    return await Deferred()


async def page(stager: FakeStager, request: Any, fields: dict[str, str]) -> bytes:
    """Answer with a page, as the login of a proxy does."""
    return b"<html><head><style>p {}</style></head><body><h1>Log\0 in</h1></body></html>"


async def broken(stager: FakeStager, request: Any, fields: dict[str, str]) -> bytes:
    """Answer as Twisted does when there is a fault: a page with all values, the passcode among them."""
    request.setResponseCode(500)
    request.setHeader("Content-Type", "text/html")
    return f"<html><title>web.Server Traceback</title><p>NameError: {fields}</p></html>".encode()


async def refuses(stager: FakeStager, request: Any, fields: dict[str, str]) -> bytes:
    """Not take it."""
    return _json(request, 403, "Unauthorized")


async def elsewhere(stager: FakeStager, request: Any, fields: dict[str, str]) -> bytes:
    """Send whoever asks to another place."""
    request.setResponseCode(307)
    request.setHeader("Location", "/manner")
    return b""


Manner = Callable[[FakeStager, Any, dict[str, str]], Any]
MANNERS: dict[str, Manner] = {
    each.__name__: each
    for each in (works, twice, early, mute, lost, hang, drip, flood, garbage, page, broken, refuses, elsewhere)
}


def main(port: str, products: str, staged: str) -> None:
    """Serve until killed."""
    from twisted.internet import reactor

    here: Any = reactor
    stager = FakeStager(Path(products), Path(staged), here)
    site: Any = Site(stager.app.resource(), reactor=here)
    here.listenTCP(int(port), site, interface="127.0.0.1")
    here.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
