"""A job as JSON: the five keys of the original, always there and in its order, and what it could not tell."""

from __future__ import annotations

import codecs
from typing import Final

import msgspec

from datahub.jobs.model import Job, Status
from datahub.jobs.service import Seen
from datahub.kit.clock import rfc3339
from datahub.processes.runner import Written

__all__ = ["LOGS", "View", "text_of", "view"]

LOGS: Final = 64 * 1024
"""Bytes of output that ``logs`` shows at most, the last ones."""


class Usage(msgspec.Struct, frozen=True):
    """What a job's processes took: seconds of processor time, and bytes of memory of the largest one."""

    utime: float
    stime: float
    maxrss: int


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bytes that came out, those of them dropped at the head, and those lost since a ``fault``."""

    captured: int
    dropped: int
    lost: int = 0
    fault: str | None = None


class WaitingOn(msgspec.Struct, frozen=True):
    """What a queued job waits for, and since when."""

    what: str
    since: str


class View(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job; in lists ``logs`` is empty."""

    id: str
    command: str
    status: str
    logs: str
    reasonForExit: str  # noqa: N815 - the original's name
    submitter: str
    created: str
    links: dict[str, str]
    queued: bool = False
    stopping: bool = False
    waiting_on: WaitingOn | None = None
    name: str | None = None
    started: str | None = None
    stopped: str | None = None
    exitCode: int | None = None  # noqa: N815 - beside reasonForExit
    signal: str | None = None
    detail: str | None = None
    usage: Usage | None = None
    output: Output | None = None
    streams: dict[str, Output] | None = None
    node: str | None = None
    expires_at: str | None = None


def view(seen: Seen, logs: bytes, keep: int) -> View:
    """``seen`` as a caller gets it; ``keep`` says how long its record stays, in ms."""
    job = seen.job
    here = f"/jobs/{job.id}"
    waits = seen.queued and job.time_requested is not None
    written = seen.written
    return View(
        id=job.id,
        command=job.command,
        status=job.status,
        logs=text_of(logs),
        # While it is being stopped the record has the reason already.
        reasonForExit=job.reason if job.status.final else "",
        submitter=job.submitter,
        created=rfc3339(job.time_created),
        links={"self": here, "output": f"{here}/output", "events": f"{here}/events"},
        queued=seen.queued,
        stopping=bool(job.reason) and not job.status.final,
        waiting_on=WaitingOn("slot", rfc3339(job.time_requested or 0)) if waits else None,
        name=job.name,
        started=_time(job.time_started),
        stopped=_time(job.time_stopped),
        exitCode=job.exit_code,
        signal=job.signal,
        detail=job.detail,
        usage=_usage(job),
        output=_summed(written) if written else None,
        streams=dict(zip(("stdout", "stderr"), map(_output, written), strict=True)) if len(written) > 1 else None,
        node=job.node,
        expires_at=rfc3339(job.time_stopped + keep) if job.status is Status.STOPPED and job.time_stopped else None,
    )


def _time(time: int | None) -> str | None:
    return None if time is None else rfc3339(time)


def _usage(job: Job) -> Usage | None:
    if job.usage is None:
        return None
    utime, stime, maxrss = job.usage
    return Usage(round(utime, 6), round(stime, 6), maxrss * 1024)


def _output(written: Written) -> Output:
    return Output(written.total, written.dropped, written.lost, written.fault)


def _summed(written: tuple[Written, ...]) -> Output:
    return Output(
        sum(each.total for each in written),
        sum(each.dropped for each in written),
        sum(each.lost for each in written),
        next((each.fault for each in written if each.fault), None),
    )


def _one_each(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("datahub.one_each", _one_each)


def text_of(data: bytes) -> str:
    """Output as text: what is no UTF-8 becomes U+FFFD, one for each byte, as Go has it."""
    if len(data) >= LOGS:
        # The cut may have gone through a character.
        cut = next((n for n, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
        data = data[cut:]
    return data.decode("utf-8", "datahub.one_each")
