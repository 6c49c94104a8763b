"""The agent ``fts+https:``: an FTS3 server copies, by its REST interface; the hub submits, asks many at once, cancels.

The job's id follows from the attempt (`job_id`), so that one whose answer was lost is found again, and a repetition is
refused by the server. Copies need a proxy of the hub's at the server, which is delegated and renewed here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

import msgspec
from treq.client import HTTPClient
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger
from twisted.web.client import Agent, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS

from datahub import __version__
from datahub.errors import FinalFault, PassingFault
from datahub.kit.aio import cancellable, within
from datahub.kit.asking import UNREACHED, Opening, cause, words
from datahub.kit.clock import HubClock
from datahub.transfers.movers.proxies import Papers, load, sign

__all__ = [
    "FILE_FIELDS",
    "Asked",
    "Fts",
    "Hidden",
    "Job",
    "JobFile",
    "Jobs",
    "Refused",
    "TooLarge",
    "Unknown",
    "job_id",
]

log = Logger()

BASE = UUID("01874efb-4735-4595-bc9c-591aef8240c9")
FILE_FIELDS = (
    "file_state,reason,source_surl,dest_surl,file_metadata,filesize,user_filesize,checksum,start_time,finish_time"
)
CONNECT = 10.0
ANSWER = 60.0
LARGEST = 64 * 1024 * 1024
CONNECTIONS = 8
"""Those that are kept: as many as are used at once, since each new one costs a handshake with certificates."""

LIFETIME = 7 * 3600
RENEW = 2 * 3600
NEEDS_DELEGATION = 419
PASSING = (408, 425, 429)
BANNED = " is banned"


class Unknown(Exception):
    """The server knows no such job."""


class Refused(Exception):
    """The server refuses a submission because there is one like it (409)."""


class Hidden(PassingFault):
    """The server has a job, and does not show it to the hub: for who has come by another name since."""


class TooLarge(PassingFault):
    """An answer has more than `LARGEST` bytes."""


class JobFile(msgspec.Struct, frozen=True):
    """What the server says of one file; fields that it leaves out have their defaults."""

    file_state: str = ""
    reason: str | None = None
    source_surl: str = ""
    dest_surl: str = ""
    file_metadata: Any = None
    filesize: float | None = None
    user_filesize: float | None = None
    checksum: str | None = None
    start_time: str | None = None
    finish_time: str | None = None

    @property
    def number(self) -> int | None:
        """Its place in the product's list, as the submission said."""
        number = self.noted("number")
        return number if isinstance(number, int) else None

    def noted(self, name: str) -> Any:
        """What was written at it by that name."""
        return self.file_metadata.get(name) if isinstance(self.file_metadata, dict) else None


class Job(msgspec.Struct, frozen=True):
    """What the server says of a job, or that it knows none: then ``http_status`` is not 200."""

    job_id: str = ""
    job_state: str = ""
    reason: str | None = None
    http_status: str | None = None
    http_message: str | None = None
    job_metadata: Any = None
    files: list[JobFile] = []

    @property
    def known(self) -> bool:
        """Whether the server knows it."""
        return self.http_status is None or self.http_status.startswith(("200", "304"))

    @property
    def hidden(self) -> bool:
        """Whether there is such a job, and the hub is somebody else now."""
        return self.http_status is not None and self.http_status.startswith("403")

    def noted(self, name: str) -> Any:
        """What was written at it by that name."""
        return self.job_metadata.get(name) if isinstance(self.job_metadata, dict) else None


class Whoami(msgspec.Struct, frozen=True):
    """Who the hub is at the server: without a ``delegation_id``, nobody."""

    delegation_id: str | None
    vos: list[str] = []
    base_id: str | None = None


class Delegation(msgspec.Struct, frozen=True):
    """Until when the server can act for us."""

    termination_time: str


class Taken(msgspec.Struct, frozen=True):
    """The answer to a submission."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer, read to its end."""

    code: int
    body: bytes


Jobs = list[Job]


def job_id(vo: str, sid: str, base: UUID = BASE) -> str:
    """The id that a server gives to a job of ``sid`` when asked for a deterministic one."""
    return str(uuid5(uuid5(base, vo), sid))


@dataclass(slots=True)
class _Session:
    """What is true as long as the credentials are the same."""

    stamp: object
    client: HTTPClient
    pool: HTTPConnectionPool
    me: Whoami | None = None
    delegated_until: float = field(default=0.0)


class _Quiet(_HTTP11ClientFactory):
    """Twisted would log each connection that is made, and that it is closed."""

    noisy = False


class Fts:
    """One server at ``url``; ``papers`` must be a certificate with its key, or a proxy."""

    def __init__(
        self, url: str, papers: Papers, policy: Callable[[], IPolicyForHTTPS], clock: HubClock, reactor: Any
    ) -> None:
        self.url = url
        self._papers = papers
        self._policy = policy
        self._clock = clock
        self._reactor = reactor
        self._session: _Session | None = None
        self._delegating = DeferredLock()

    def start(self) -> None:
        """Nothing is begun before it is needed."""

    async def stop(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.pool.closeCachedConnections()

    def _current(self) -> _Session:
        stamp = self._papers.stamp()
        if self._session is None or self._session.stamp != stamp:
            trouble = self._papers.trouble(self._now())
            if trouble:
                raise PassingFault(trouble)
            if self._session is not None:
                self._session.pool.closeCachedConnections()
            pool = HTTPConnectionPool(self._reactor)
            pool.maxPersistentPerHost = CONNECTIONS
            pool._factory = _Quiet  # noqa: SLF001 - Twisted has no other way
            try:
                agent = Agent(self._reactor, self._policy(), connectTimeout=CONNECT, pool=pool)
            except ValueError as error:
                raise PassingFault(str(error)) from error
            self._session = _Session(stamp, HTTPClient(agent), pool)
        return self._session

    def _now(self) -> float:
        return self._clock.wall() / 1000

    async def whoami(self) -> Whoami:
        """Who we are there, asked once."""
        session = self._current()
        if session.me is None:
            me: Whoami = _read(await self._ask("GET", "/whoami"), Whoami, "who the hub is")
            if me.delegation_id is None:
                raise FinalFault(f"{self.url} has seen no certificate of the hub's: is it asked for one there?")
            session.me = me
        return session.me

    async def id_of(self, sid: str) -> str:
        """The id that a job of ``sid`` will have."""
        me = await self.whoami()
        return job_id(me.vos[0] if me.vos else me.delegation_id or "", sid, UUID(me.base_id) if me.base_id else BASE)

    async def delegate(self, *, anew: bool = False) -> None:
        """See to it that the server can act for us for two hours at least."""
        await self._delegating.acquire()
        try:
            session, me = self._current(), await self.whoami()
            if not anew and session.delegated_until - self._now() > RENEW:
                return
            session.delegated_until = await self._delegated_until(me)
            if anew or session.delegated_until - self._now() <= RENEW:
                await self._renew(me)
                session.delegated_until = await self._delegated_until(me)
        finally:
            self._delegating.release()

    async def _delegated_until(self, me: Whoami) -> float:
        found = _read(await self._ask("GET", f"/delegation/{me.delegation_id}"), Delegation | None, "the delegation")
        if found is None:
            return 0.0
        try:
            until = dt.datetime.fromisoformat(found.termination_time)
        except ValueError:
            raise PassingFault(f"{self.url} tells no time: {found.termination_time[:40]!r}") from None
        return until.replace(tzinfo=dt.UTC).timestamp()

    async def _renew(self, me: Whoami) -> None:
        try:
            own = load(*self._files())
            request = await self._ask("GET", f"/delegation/{me.delegation_id}/request")
            self._expect(request)
            chain = sign(request.body, own, self._now(), LIFETIME)
        except ValueError as error:
            raise PassingFault(f"no proxy can be made for {self.url}: {error}") from error
        self._expect(await self._ask("PUT", f"/delegation/{me.delegation_id}/credential", chain, "text/plain"))
        log.info("a proxy was delegated to {url}", url=self.url)

    def _files(self) -> Any:
        papers = self._papers
        return (papers.proxy, papers.proxy) if papers.proxy else (papers.certificate, papers.key)

    async def submit(self, job: dict[str, Any]) -> str:
        """Submit; the job's id. Raises `Refused` if there is a job of this id, or one to the same destination."""
        await self.delegate()
        body = msgspec.json.encode(job)
        answer = await self._ask("POST", "/jobs", body)
        if answer.code == NEEDS_DELEGATION:
            await self.delegate(anew=True)
            answer = await self._ask("POST", "/jobs", body)
        if answer.code == 409:
            # What comes behind it are the statements of the server's database.
            raise Refused(words(answer.body).partition(" (")[0])
        taken: Taken = _read(answer, Taken, "the job's id", self._expect)
        return taken.job_id

    async def look(self, jobs: Sequence[str]) -> Jobs:
        """What the server knows of jobs, in any order; of those that it does not know or show, that."""
        answer = await self._ask("GET", f"/jobs/{','.join(jobs)}?files={FILE_FIELDS}")
        if len(jobs) > 1:
            many: Jobs = _read(answer, Jobs, "jobs", self._expect)
            return many
        if missing := _missing(answer):
            return [missing]
        found = _read(answer, Job | Jobs, "a job", self._expect)
        return found if isinstance(found, list) else [found]

    async def recall(self, job: str) -> Job:
        """What the server's archive knows of a job; raises `Unknown`, and `Hidden`."""
        answer = await self._ask("GET", f"/archive/{job}")
        if answer.code == 404:
            raise Unknown(job)
        if answer.code == 403:
            raise Hidden(f"{self.url} does not show the hub its old job: {words(answer.body)}")
        found: Job = _read(answer, Job, "an old job", self._expect)
        return found

    async def cancel(self, job: str) -> None:
        """Cancel; that the job has ended already is no fault. Raises `Unknown`, and `Hidden`."""
        answer = await self._ask("DELETE", f"/jobs/{job}")
        if (missing := _missing(answer)) and missing.hidden:
            raise Hidden(f"{self.url} does not let the hub cancel: {missing.http_message}")
        if missing:
            raise Unknown(job)
        self._expect(answer)

    def _expect(self, answer: Asked) -> None:
        if 200 <= answer.code < 300:
            return
        said = words(answer.body)
        if answer.code == NEEDS_DELEGATION:
            raise PassingFault(f"{self.url} has no proxy of the hub: {said}")
        # A storage is banned while it is repaired.
        banned = answer.code == 403 and said.endswith(BANNED) and "://" in said
        passing = answer.code >= 500 or answer.code in PASSING or answer.code == 424 or banned
        raise (PassingFault if passing else FinalFault)(f"{self.url} answered {answer.code}{said and ': '}{said}")

    async def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Asked:
        headers = Headers({"Accept": ["application/json"], "User-Agent": [f"datahub/{__version__}"]})
        if body is not None:
            headers.addRawHeader("Content-Type", kind)
        client = self._current().client
        asking = client.request(method, self.url + path, data=body, headers=headers, unbuffered=True)
        try:
            return await within(ANSWER, self._whole(cancellable(asking)), self._reactor, f"the answer of {self.url}")
        except TimeoutError as error:
            raise PassingFault(f"the FTS server is silent: {error}") from None
        except UNREACHED as error:
            raise PassingFault(f"the FTS server {self.url} can't be reached: {cause(error)}") from None

    async def _whole(self, asking: Any) -> Asked:
        response = await asking
        opening = Opening(LARGEST)
        response.deliverBody(opening)
        await opening.ended
        if opening.full:
            raise TooLarge(f"{self.url} gives an answer of more than {LARGEST} bytes")
        if not opening.whole:
            raise PassingFault(f"{self.url} broke off in the middle of an answer")
        return Asked(response.code, opening.data)


def _missing(answer: Asked) -> Job | None:
    """The one job that was asked about, if the server has none such or does not show it; None for all other answers."""
    if answer.code not in (403, 404):
        return None
    try:
        found = msgspec.json.decode(answer.body, type=Job)
    except msgspec.MsgspecError:
        return None
    return found if found.job_id and not found.known else None


def _read(answer: Asked, shape: Any, what: str, expect: Callable[[Asked], None] | None = None) -> Any:
    if expect is not None:
        expect(answer)
    elif not 200 <= answer.code < 300:
        fault = PassingFault if answer.code >= 500 or answer.code in PASSING else FinalFault
        raise fault(f"the FTS server answered {answer.code}: {words(answer.body)}")
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except msgspec.MsgspecError as error:
        said = words(answer.body)
        raise PassingFault(f"the FTS server does not say {what}: {error}{said and ': '}{said}") from error
