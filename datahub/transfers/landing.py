"""What becomes of a transfer whose job at an FTS server has ended: what its record says, and what is left of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.errors import FinalFault
from datahub.kit.clock import HubClock
from datahub.kit.sizes import count, format_duration
from datahub.transfers import file_tables, flights, tables
from datahub.transfers.endings import CopyFailed, Endings
from datahub.transfers.flights import LATE, Flight
from datahub.transfers.model import Status, Transfer
from datahub.transfers.movers import Delivery
from datahub.transfers.movers.addresses import final_url
from datahub.transfers.movers.fts import Job, JobFile
from datahub.transfers.movers.fts_errors import Verdict
from datahub.transfers.movers.fts_jobs import FINAL_JOBS, Agent, End, conclude, details, ended
from datahub.transfers.reasons import Reasons
from datahub.work import Done, Item, Outcome, Record

__all__ = ["LEFT", "STOPPING", "Landing", "final", "has_ended", "is_over"]

log = Logger()

STOPPING = 15 * 60 * 1000
"""So long a copy may go on after its cancellation (ms); FTS itself takes it for dead by then."""

LEFT = "cancelled; FTS was told to stop, and what had arrived before is still at the destination"

STILL_WRITTEN = "cancelled; FTS was told to stop, and has not said that it did: the destination may still be written"


class Landing:
    """Says how transfers end that FTS has copied, or not."""

    def __init__(self, clock: HubClock, endings: Endings) -> None:
        self._clock = clock
        self._endings = endings
        self.reasons = Reasons(clock)

    def outcome(self, item: Item, transfer: Transfer, agent: Agent, job: Job, flight: Flight | None) -> Outcome | None:
        """What becomes of a transfer whose job is as ``job`` says; None while that goes on."""
        now = self._clock.now()
        end = conclude(job, overdue=flight is not None and _is_overdue(flight, job, now))
        if end is None:
            return self._deaf(item, transfer, agent, job) if flight and _is_deaf(flight, job, now) else None
        note: dict[str, Any] = {"fts_details": details(agent.server.url, job), "job": job}
        if not end.failures:
            lacking = f"without {count(end.empty, 'empty folder')}, of which FTS makes none" if end.empty else ""
            delivered = self._endings.delivered(item, transfer, _delivery(transfer, end), lacking=lacking)
            return Done(self.over(transfer, delivered, **note))
        if transfer.status is Status.CANCELLING:
            left = _left(end) if job.files else LEFT
            return Done(self.over(transfer, self._endings.cancelled(transfer, left), **note))
        if end.foreign and transfer.overwrite:
            # Nothing of ours is there to be taken care of: without a former job, the next one may replace it.
            note["fts_jobid"] = None
            error: Exception = CopyFailed(f"{agent.server.url}: it is to be replaced: {end.told}")
        elif flight is not None and flight.state == LATE and not end.failed:
            error = self._late(agent, flight, end)
        else:
            error = _error(agent, end)
        if end.copied:
            # It has got on.
            item = replace(item, record=replace(transfer, failing_since=None, late_since=None))
        return self._failed(item, transfer, error, **note)

    def _failed(self, item: Item, transfer: Transfer, error: Exception, **note: Any) -> Outcome:
        outcome = self._endings.fault(item, error)
        return replace(outcome, record=self.over(transfer, outcome.record, **note))

    def _deaf(self, item: Item, transfer: Transfer, agent: Agent, job: Job) -> Outcome:
        """The end of a transfer whose job goes on though it was cancelled: another one would write at its side."""
        note: dict[str, Any] = {"fts_details": details(agent.server.url, job), "job": job}
        if transfer.status is Status.CANCELLING:
            return Done(self.over(transfer, self._endings.cancelled(transfer, STILL_WRITTEN), **note))
        told = f"{agent.server.url} was told to cancel the job {job.job_id}, which took too long, and has not"
        after = "its copy may still be written: have it ended there, then retry"
        return self._failed(item, transfer, FinalFault(f"{told} (it is {job.job_state}); {after}"), **note)

    def lost(self, item: Item, transfer: Transfer, agent: Agent, job: str) -> Outcome:
        """The end of an attempt whose job its server had, and knows no more: the next one looks what there is."""
        return self._failed(item, transfer, CopyFailed(f"{agent.server.url} knows its job {job} no more"))

    def _late(self, agent: Agent, flight: Flight, end: End) -> Exception:
        age = format_duration((flight.changed - flight.since) // 60_000 * 60)
        told = (
            f"{agent.server.url}: the job {flight.job} had not ended {age} after it was handed over, and was cancelled"
        )
        return CopyFailed(f"{told}; a copy has not stopped since" if end.running else told)

    def heed(self, transfer: str, job: Job) -> None:
        """See what has become of a job whose end is settled: counted before, what is rolled back counts twice."""
        end = conclude(job, overdue=True)
        reason = end.unknown if end else None
        if reason is not None:
            self.reasons.note(reason)
            log.warn("FTS gives a reason that is not known ({id}): {reason}", id=transfer, reason=reason)

    def over(self, transfer: Transfer, record: Record, job: Job | None = None, **note: Any) -> Record:
        """The attempt is over: it is forgotten with what ``record`` says, and with its ``job``'s files."""

        def both(connection: Connection) -> None:
            flights.land(connection, transfer.id)
            if job is not None:
                known = ended(job, final(transfer))
                file_tables.amend(connection, transfer.id, file_tables.news(connection, transfer.id, known))
            tables.note(connection, transfer.id, fts_attempt=None, **note)
            record(connection)

        return both


def has_ended(flight: Flight, job: Job, now: int) -> bool:
    """Whether there is nothing more to wait for."""
    return conclude(job, overdue=_is_overdue(flight, job, now)) is not None or _is_deaf(flight, job, now)


def _is_overdue(flight: Flight, job: Job, now: int) -> bool:
    """Whether a job came into its present state so long ago that what still runs of it is not waited for."""
    return (flight.stopped or flight.state == job.job_state) and now - flight.changed > STOPPING


def _is_deaf(flight: Flight, job: Job, now: int) -> bool:
    """Whether a server was told to cancel a job, and goes on with it."""
    return flight.stopped and job.job_state not in FINAL_JOBS and now - flight.changed > STOPPING


def is_over(transfer: Transfer | None) -> bool:
    """Whether nothing becomes of it any more."""
    return transfer is None or transfer.status.final


def _name(transfer: Transfer) -> str:
    place = transfer.stager_path if transfer.stager_hostname else None
    return (place or transfer.product_id).rstrip("/").rpartition("/")[2]


def final(transfer: Transfer) -> str:
    """The URL at which it will be found."""
    return final_url(transfer.destination_path, _name(transfer))


def _left(end: End) -> str | None:
    """What may be at the destination of what was cancelled; None if nothing is."""
    if end.running:
        return STILL_WRITTEN
    if end.files:
        return f"cancelled; {count(end.files, 'file')} had arrived before, and are still there"
    if end.begun:
        return "cancelled while it was copied; FTS removes what it has begun, once it has stopped"
    return None


def _error(agent: Agent, end: End) -> Exception:
    verdict, told = end.verdict, f"{agent.server.url}: {end.told}"
    if verdict is not Verdict.NEVER:
        return CopyFailed(told)
    return FinalFault(f"{told}; {_in_the_way(end.blocked)}" if end.blocked else told)


def _in_the_way(files: Sequence[JobFile]) -> str:
    """What to do where something is in the way of which nobody can tell whether it is the rest of an earlier copy.

    FTS removes what it has begun, unless it can't reach the storage any more. It had seen that nothing was there; yet
    somebody else may have put something there since, and that is not the hub's to replace.
    """
    first, *others = files
    there = first.noted("dst_file")
    told = [f"{there.get('file_size')} bytes of {int(first.user_filesize or 0)}"] if isinstance(there, dict) else []
    told += [f"and {count(len(others), 'other file')}"] if others else []
    place = first.dest_surl + (f" ({', '.join(told)})" if told else "")
    return f"it may be the rest of an earlier attempt, or somebody else's: remove {place} if it can go, then retry"


def _delivery(transfer: Transfer, end: End) -> Delivery:
    # FTS may have told that it has FINISHED and nothing of the files.
    size, files = end.size or transfer.size or 0, end.files or transfer.files or 0
    return Delivery(
        final=final(transfer), temporary="", device=0, inode=0, files=files, size=size, checksums=end.checksums
    )
