"""The stager ``http(s)://``: it is asked by a form, answers that it has heard, and calls back when it is done.

This is the protocol of the DELIV prototype's stagers. What the stager says in its answer is for people only: whether
it has taken the errand is told by the status, and what became of it by the report (`datahub.transfers.reports`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from treq.client import HTTPClient
from twisted.internet.interfaces import IReactorTime
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS

from datahub import __version__
from datahub.archive import Archive, Product
from datahub.errors import FinalFault, InvalidRequest, PassingFault
from datahub.kit.aio import cancellable, within
from datahub.kit.asking import UNREACHED, Opening, cause, words
from datahub.transfers.model import Transfer
from datahub.transfers.movers import Remote
from datahub.transfers.movers.addresses import quoted
from datahub.transfers.stagers import Errand, Promised

__all__ = ["Address", "CallbackStager", "Patience", "Shelf", "make_client"]

# Too early, too often, or none of our fault.
PASSING = (408, 425, 429)
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: to connect, until an answer begins, and until it has ended."""

    connect: float = 10.0
    answer: float = 60.0
    body: float = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where the stager is asked, how, and where it is to report."""

    url: str
    method: str
    callback: str
    token: str | None = None

    @property
    def headers(self) -> Headers:
        """What goes with each request."""
        headers = Headers({"Accept": ["application/json"], "User-Agent": [f"datahub/{__version__}"]})
        if self.token is not None:
            headers.addRawHeader("Authorization", f"Bearer {self.token}")
        return headers

    def __str__(self) -> str:
        """For people: without a query, which may hold secrets."""
        return self.url.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folder below which a stager's paths may be read here."""

    folder: Path
    archive: Archive


class CallbackStager:
    """Asks the stager at ``address``; ``shelf`` None means that nothing of what it stages can be read here."""

    calls_back = True

    def __init__(
        self,
        address: Address,
        client: HTTPClient,
        shelf: Shelf | None,
        reactor: IReactorTime,
        patience: Patience | None = None,
    ) -> None:
        self._address = address
        self._client = client
        self._shelf = shelf
        self._reactor = reactor
        self._patience = patience or Patience()

    async def stage(self, errand: Errand) -> Promised:
        """Send the request; any 2xx promises a report.

        Raises `PassingFault` while the stager is away or in trouble: it may have heard nevertheless, which is why the
        same errand has the same passcode. Raises `FinalFault` for what it refuses.
        """
        response = await self._ask(errand)
        answer = await self._read(response)
        # Some stagers give their parameters back, be it in a traceback.
        said = words(answer.replace(errand.passcode.encode(), b"***"))
        if 200 <= response.code < 300:
            return Promised(said)
        fault = PassingFault if response.code >= 500 or response.code in PASSING else FinalFault
        raise fault(f"the stager {self._address} answered {response.code}{said and ': '}{said}")

    async def _ask(self, errand: Errand) -> Any:
        fields = {
            "job_id": errand.job,
            "product_id": errand.product,
            "authcode": errand.passcode,
            "callback": self._address.callback,
        }
        in_query = self._address.method == "GET"
        asking = self._client.request(
            self._address.method,
            self._address.url,
            params=fields if in_query else None,
            data=None if in_query else fields,
            headers=self._address.headers,
            # Who would follow a redirect would bring the passcode to whomever it names.
            allow_redirects=False,
            unbuffered=True,
        )
        try:
            answer = cancellable(asking)
            return await within(self._patience.answer, answer, self._reactor, f"the answer of {self._address}")
        except TimeoutError as error:
            raise PassingFault(f"the stager is silent: {error}") from None
        except UNREACHED as error:
            raise PassingFault(f"the stager {self._address} can't be reached: {cause(error)}") from None

    async def _read(self, response: Any) -> bytes:
        opening = Opening()
        response.deliverBody(opening)
        try:
            await within(self._patience.body, opening.ended, self._reactor, "the end of the answer")
        except TimeoutError:
            pass  # the status has told what counts
        return opening.data

    async def locate(self, transfer: Transfer) -> Product:
        """Find what the stager has reported, which must lie on the shelf."""
        path, host = transfer.stager_path or "", transfer.stager_hostname or ""
        if self._shelf is None:
            raise FinalFault(
                f"the product was staged at gsiftp://{host}{path}, and this mover reads only what is here: "
                "make it visible here and name its folder in [transfers] staged"
            )
        try:
            below = PurePosixPath(path).relative_to(self._shelf.folder)
            return await self._shelf.archive.locate(str(below))
        except (ValueError, InvalidRequest):
            raise FinalFault(
                f"the stager reports the path {path!r}, which is not below {self._shelf.folder} ([transfers] staged)"
            ) from None

    def remote(self, transfer: Transfer) -> Remote:
        """What the stager has reported, at the GridFTP server it has named."""
        path, host = transfer.stager_path or "", transfer.stager_hostname or ""
        place = PurePosixPath(path)
        if not HOST.fullmatch(host) or not place.is_absolute() or ".." in place.parts or not place.name:
            raise FinalFault(f"the stager reports the host {host!r} and the path {path!r}, at which nothing can be")
        try:
            url = f"gsiftp://{host}{quoted(str(place))}"
        except UnicodeEncodeError:
            raise FinalFault(f"the stager reports the path {path!r}, which is not UTF-8") from None
        return Remote(transfer.product_id, place.name, Path(path), is_directory=False, files=0, size=0, url=url)


def make_client(reactor: Any, policy: IPolicyForHTTPS, patience: Patience) -> HTTPClient:
    """A client that makes a connection for each request: there are few, and a stager may have been restarted."""
    return HTTPClient(Agent(reactor, policy, connectTimeout=patience.connect))
