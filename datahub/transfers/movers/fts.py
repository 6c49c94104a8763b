"""The agent ``fts+https:``: an FTS3 server copies, by its REST interface; the hub submits, asks many at once, cancels.

The job's id follows from the attempt (`job_id`), so that one whose answer was lost is found again, and a repetition is
refused by the server. Copies need a proxy of the hub's at the server, which is delegated and renewed here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid5

import msgspec
from twisted.logger import Logger

from datahub.errors import FinalFault, PassingFault
from datahub.kit.asking import words
from datahub.kit.sharing import Shared
from datahub.transfers.movers.fts_wire import Asked, Session, TooLarge, Wire

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
    "Trouble",
    "Unknown",
    "job_id",
]

log = Logger()

BASE = UUID("01874efb-4735-4595-bc9c-591aef8240c9")
BRIEF = "file_state,dest_surl,file_metadata,user_filesize,start_time,finish_time"
FILE_FIELDS = f"{BRIEF},reason,filesize,checksum"
HOUR = 3600
LIFETIME = 7 * HOUR
RENEW = 2 * HOUR
SLACK = 60
"""Seconds by which a proxy may end sooner than it could, and is not renewed for that."""

NEEDS_DELEGATION = 419
TOO_LARGE = 413
PASSING = (401, 403, 408, 424, 425, 429)
BANNED = " is banned"


class Unknown(Exception):
    """The server knows no such job."""


class Refused(Exception):
    """The server refuses a submission because there is one like it (409)."""


class Trouble(PassingFault):
    """The server has answered, with an internal error or with nonsense: what it was asked about may be the reason."""


class Hidden(PassingFault):
    """The server has a job, and does not show it to the hub: for who has come by another name since."""


class JobFile(msgspec.Struct, frozen=True):
    """What the server says of one file; fields that it leaves out have their defaults."""

    file_state: str = ""
    reason: str | None = None
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


Jobs = list[Job]


def job_id(vo: str, sid: str, base: UUID = BASE) -> str:
    """The id that a server gives to a job of ``sid`` when asked for a deterministic one."""
    return str(uuid5(uuid5(base, vo), sid))


class Fts:
    """One server, asked over ``wire``; ``clock`` is the reactor's."""

    def __init__(self, wire: Wire, clock: Any) -> None:
        self.url = wire.url
        self._wire = wire
        self._known: tuple[Session, Whoami] | None = None
        self._introduced = Shared(self._introduce, 0.0, clock)
        self._delegated = Shared(self._see_to_delegation, 0.0, clock)
        self._until = 0.0
        self._renewals = 0
        self._refused = False
        self._barred = False
        self._kept_from = ""

    def start(self) -> None:
        """Nothing is asked before it is needed."""
        self._wire.start()

    async def stop(self) -> None:
        """Close the connections."""
        await self._wire.stop()

    async def whoami(self) -> Whoami:
        """Who we are there, asked once for all who want to know, as long as the credentials are the same."""
        session = await self._wire.session()
        if self._known is not None and self._known[0] is session:
            return self._known[1]
        return await self._introduced.get()

    async def _introduce(self) -> Whoami:
        session = await self._wire.session()
        answer = await self._ask("GET", "/whoami")
        self._expect(answer)
        me: Whoami = self._read(answer, Whoami, "who the hub is")
        if me.delegation_id is None:
            raise PassingFault(f"{self.url} has seen no certificate of the hub's: is it asked for one there?")
        self._known, self._until = (session, me), 0.0
        return me

    async def id_of(self, sid: str) -> str:
        """The id that a job of ``sid`` will have."""
        me = await self.whoami()
        return job_id(me.vos[0] if me.vos else me.delegation_id or "", sid, UUID(me.base_id) if me.base_id else BASE)

    async def delegate(self) -> int:
        """See to it that the server can act for us for two hours, or as long as our own credentials last.

        Gives the number of the delegation that counts. Raises `PassingFault` if they last less than the hour that the
        server wants for a job.
        """
        await self.whoami()
        session = await self._wire.session()
        if self._refused or not self._lasts(session):
            await self._delegated.get()
        if session.until - self._wire.now() < HOUR:
            told = f"{self.url} takes no job in the last hour of the hub's credentials"
            raise PassingFault(f"{told}, {self._wire.papers.shown}: renew them")
        return self._renewals

    async def keep_delegated(self) -> None:
        """As `delegate`; what keeps the hub from it is logged when it is something else, and no fault."""
        kept_from = ""
        try:
            await self.delegate()
        except PassingFault as error:
            kept_from = str(error)
        if kept_from and kept_from != self._kept_from:
            log.warn("no proxy is delegated to {url} now: {why}", url=self.url, why=kept_from)
        self._kept_from = kept_from

    def _lasts(self, session: Session) -> bool:
        """Whether what the server has is good for a while, or as good as can be."""
        now = self._wire.now()
        return self._until - now > RENEW or self._until >= min(now + LIFETIME, session.until) - SLACK

    async def _see_to_delegation(self) -> None:
        me, session = await self.whoami(), await self._wire.session()
        self._until = await self._delegated_until(me)
        if not self._refused and self._lasts(session):
            return
        await self._renew(me)
        self._until = await self._delegated_until(me)
        self._renewals, self._refused = self._renewals + 1, False

    async def _delegated_until(self, me: Whoami) -> float:
        answer = await self._ask("GET", f"/delegation/{me.delegation_id}")
        self._expect(answer)
        found = self._read(answer, Delegation | None, "the delegation")
        if found is None:
            return 0.0
        try:
            until = dt.datetime.fromisoformat(found.termination_time)
        except ValueError:
            raise PassingFault(f"{self.url} tells no time: {found.termination_time[:40]!r}") from None
        return until.replace(tzinfo=dt.UTC).timestamp()

    async def _renew(self, me: Whoami) -> None:
        request = await self._ask("GET", f"/delegation/{me.delegation_id}/request")
        self._expect(request)
        try:
            chain = await self._wire.sign(request.body, LIFETIME)
        except ValueError as error:
            raise PassingFault(f"no proxy can be made for {self.url}: {error}") from error
        self._expect(await self._ask("PUT", f"/delegation/{me.delegation_id}/credential", chain, "text/plain"))
        log.info("a proxy was delegated to {url}", url=self.url)

    async def submit(self, job: dict[str, Any]) -> str:
        """Submit; the job's id. Raises `Refused` if there is a job of this id, or one to the same destination."""
        number = await self.delegate()
        body = msgspec.json.encode(job)
        answer = await self._ask("POST", "/jobs", body)
        if answer.code == NEEDS_DELEGATION:
            # Of many that are refused at once only the first has it renewed.
            self._refused |= number == self._renewals
            await self.delegate()
            answer = await self._ask("POST", "/jobs", body)
        if answer.code == 409:
            # What comes behind it are the statements of the server's database.
            raise Refused(words(answer.body).partition(" (")[0])
        self._expect_of_submission(answer)
        taken: Taken = self._read(answer, Taken, "the job's id")
        return taken.job_id

    async def look(self, jobs: Sequence[str]) -> Jobs:
        """What the server knows of jobs; of those that it does not know or show, that.

        Raises `PassingFault` if it says nothing of the only one; of many it may leave some out. Where the answer about
        a single one is `TooLarge`, because many files have long reasons, it is asked for less, in the end for no files.
        """
        if len(jobs) > 1:
            return await self._look(jobs, f"?files={FILE_FIELDS}")
        for less in (f"?files={FILE_FIELDS}", f"?files={BRIEF}"):
            with suppress(TooLarge):
                return await self._look(jobs, less)
        return await self._look(jobs, "")

    async def _look(self, jobs: Sequence[str], fields: str) -> Jobs:
        answer = await self._ask("GET", f"/jobs/{','.join(jobs)}{fields}")
        if len(jobs) == 1 and (missing := _missing(answer, jobs[0])):
            return [missing]
        self._expect(answer)
        found = self._read(answer, Job | Jobs, "a job")
        told = [each for each in (found if isinstance(found, list) else [found]) if each.job_id in jobs]
        if len(jobs) == 1 and len(told) != 1:
            raise Trouble(f"{self.url} says nothing of {jobs[0]}, which it was asked about")
        return told

    async def recall(self, job: str) -> Job:
        """What the server's archive knows of a job; raises `Unknown`, and `Hidden`."""
        answer = await self._ask("GET", f"/archive/{job}")
        if answer.code == 404 and _is_own(answer):
            raise Unknown(job)
        if answer.code == 403 and _is_own(answer):
            raise Hidden(f"{self.url} does not show the hub its old job: {words(answer.body)}")
        self._expect(answer)
        found: Job = self._read(answer, Job, "an old job")
        if found.job_id != job:
            raise Trouble(f"{self.url} says nothing of {job}, which it was asked about")
        return found

    async def cancel(self, job: str) -> None:
        """Cancel; that the job has ended already is no fault. Raises `Unknown`, and `Hidden`."""
        answer = await self._ask("DELETE", f"/jobs/{job}")
        if (missing := _missing(answer, job)) and missing.hidden:
            raise Hidden(f"{self.url} does not let the hub cancel: {missing.http_message}")
        if missing:
            raise Unknown(job)
        self._expect(answer)

    def _expect(self, answer: Asked) -> None:
        """What the server refuses passes, for it is the hub that is refused: it may be let in again.

        And what was handed over goes on there, whatever the hub is told.
        """
        if 200 <= answer.code < 300:
            self._barred = False
            return
        told = self._refusal(answer)
        if answer.code in (401, 403):
            if not self._barred:
                log.warn("{told}; the hub is not let in, its jobs there go on unseen", told=told)
            self._barred = True
            told += f"; is {self._wire.papers.shown} known to a VO there, and not banned?"
        raise (Trouble if answer.code >= 500 else PassingFault)(told)

    def _expect_of_submission(self, answer: Asked) -> None:
        """As `_expect`; but what FTS itself says of the very job will not pass, nor will a body that is too large."""
        if answer.code == NEEDS_DELEGATION:
            raise PassingFault(f"{self.url} has no proxy of the hub: {words(answer.body)}")
        # A storage is banned while it is repaired.
        if answer.code == 403 and words(answer.body).endswith(BANNED) and "://" in words(answer.body):
            raise PassingFault(self._refusal(answer))
        of_job = 400 <= answer.code < 500 and answer.code not in PASSING and _is_own(answer)
        if of_job or answer.code == TOO_LARGE:
            raise FinalFault(self._refusal(answer))
        self._expect(answer)

    def _refusal(self, answer: Asked) -> str:
        said = words(answer.body)
        return f"{self.url} answered {answer.code}{said and ': '}{said}"

    def _read(self, answer: Asked, shape: Any, what: str) -> Any:
        try:
            return msgspec.json.decode(answer.body, type=shape)
        except msgspec.MsgspecError as error:
            said = words(answer.body)
            raise Trouble(f"{self.url} does not say {what}: {error}{said and ': '}{said}") from error

    async def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Asked:
        return await self._wire.ask(method, path, body, kind)


def _missing(answer: Asked, job: str) -> Job | None:
    """The job that was asked about, if the server has none such or does not show it; None for all other answers."""
    if answer.code not in (403, 404):
        return None
    try:
        found = msgspec.json.decode(answer.body, type=Job)
    except msgspec.MsgspecError:
        return None
    return found if found.job_id == job and not found.known else None


def _is_own(answer: Asked) -> bool:
    """Whether a refusal is FTS's, about what was asked for: what stands before it speaks HTML, and of the caller."""
    try:
        return isinstance(msgspec.json.decode(answer.body), dict)
    except msgspec.MsgspecError:
        return False
