"""A transfer as JSON: the prototype's field names, times as RFC 3339, nulls left out."""

from __future__ import annotations

from typing import Any

import msgspec

from datahub.kit.clock import rfc3339
from datahub.transfers.model import FileRecord, Status, Transfer
from datahub.transfers.pipeline import FTS, STAGE
from datahub.transfers.service import Seen
from datahub.work.tables import DELAYED, PARKED, RUNNING

__all__ = ["FileView", "Progress", "View", "WaitingOn", "view", "view_file"]

SECOND = 1000


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bytes moved, of how many; while they move bytes a second, and seconds that are left at that rate."""

    done: int
    total: int
    rate: int | None = None
    eta: int | None = None


class WaitingOn(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a transfer waits for (slot, stager, mover or retry), since when, and when it is looked at next."""

    what: str
    since: str
    next_at: str | None = None
    reason: str | None = None


class View(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ``/transferStatus`` and ``/transfers/{id}`` answer."""

    job_id: str
    product_id: str
    status: str
    destination_path: str
    submitter: str
    priority: int
    links: dict[str, str]
    detailed_status: str | None = None
    stager_path: str | None = None
    stager_hostname: str | None = None
    stager_status: str | None = None
    fts_jobid: str | None = None
    fts_details: dict[str, Any] | None = None
    deadline: str | None = None
    time_submitted: str | None = None
    time_staging: str | None = None
    time_staging_finished: str | None = None
    time_transferring: str | None = None
    time_error: str | None = None
    time_success: str | None = None
    time_cancelled: str | None = None
    expires_at: str | None = None
    files: int | None = None
    progress: Progress | None = None
    attempts: int = 0
    waiting_on: WaitingOn | None = None
    checksums: dict[str, str] | None = None
    stuck_since: str | None = None


class FileView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a transfer: COPIED (under a temporary name), DELIVERED, or FAILED with the ``error``."""

    path: str
    size: int
    state: str
    checksums: dict[str, str] | None = None
    error: str | None = None


def view_file(file: FileRecord, transfer: Transfer) -> FileView:
    """``file`` of ``transfer`` as a caller gets it."""
    if file.error is not None:
        return FileView(file.path, file.size, "FAILED", error=file.error)
    # FTS gives each file its final name, and tells no checksum but those that it was asked to verify.
    delivered = transfer.status is Status.SUCCESS or transfer.fts_jobid is not None
    checksums = {file.checksum.algorithm: file.checksum.value} if file.checksum else None
    return FileView(file.path, file.size, "DELIVERED" if delivered else "COPIED", checksums)


def view(seen: Seen, now: int, keep: int) -> View:
    """``seen`` as a caller gets it at ``now``; ``keep`` says how long its record stays, both in ms."""
    transfer = seen.transfer
    return View(
        job_id=transfer.id,
        product_id=transfer.product_id,
        status=transfer.status,
        destination_path=transfer.destination_path,
        submitter=transfer.submitter,
        priority=transfer.priority,
        links=_links(transfer),
        detailed_status=transfer.detailed_status,
        stager_path=transfer.stager_path,
        stager_hostname=transfer.stager_hostname,
        stager_status=transfer.stager_status,
        fts_jobid=transfer.fts_jobid,
        fts_details=transfer.fts_details,
        deadline=_time(transfer.deadline),
        expires_at=rfc3339(transfer.time_submitted + keep) if transfer.status.final else None,
        files=transfer.files,
        progress=_progress(seen, now),
        attempts=seen.place.attempt if seen.place else transfer.attempts,
        waiting_on=_waiting_on(seen),
        checksums=transfer.checksums,
        stuck_since=_time(transfer.since) if transfer.stuck_at is not None else None,
        **_times(transfer),
    )


def _links(transfer: Transfer) -> dict[str, str]:
    here = f"/transfers/{transfer.id}"
    links = {"self": here, "events": f"{here}/events", "files": f"{here}/files"}
    if transfer.status is Status.ERROR:
        links["retry"] = f"{here}/retry"
    return links


def _time(time: int | None) -> str | None:
    return None if time is None else rfc3339(time)


def _times(transfer: Transfer) -> dict[str, str | None]:
    names = ["submitted", "staging", "staging_finished", "transferring", "error", "success", "cancelled"]
    return {f"time_{name}": _time(getattr(transfer, f"time_{name}")) for name in names}


def _progress(seen: Seen, now: int) -> Progress | None:
    transfer = seen.transfer
    if transfer.size is None:
        return None
    if transfer.status is Status.SUCCESS:
        return Progress(transfer.size, transfer.size)
    at_fts = (transfer.fts_details or {}).get("bytes", 0)
    done = min(max(seen.moved, at_fts), transfer.size)
    elapsed = now - (transfer.time_transferring or now)
    if not done or elapsed < SECOND:
        # Too early to tell a rate.
        return Progress(done, transfer.size)
    rate = done * SECOND // elapsed
    return Progress(done, transfer.size, rate, (transfer.size - done) // max(rate, 1))


def _waiting_on(seen: Seen) -> WaitingOn | None:
    transfer, place = seen.transfer, seen.place
    if place is None:
        return None
    if place.state == DELAYED and place.due is not None:
        since = transfer.failing_since or transfer.time_submitted
        return WaitingOn("retry", rfc3339(since), rfc3339(place.due), transfer.detailed_status)
    if place.state == PARKED:
        due = None if place.due is None else rfc3339(place.due)
        if place.lane == STAGE:
            return WaitingOn("stager", rfc3339(transfer.time_staging or transfer.time_submitted), due)
        # When it is asked about at FTS the follower says: the item itself is only looked at in case nobody follows.
        due = None if place.lane == FTS else due
        return WaitingOn("mover", rfc3339(transfer.time_transferring or transfer.time_submitted), due)
    if place.state == RUNNING:
        what = "stager" if place.lane == STAGE else "mover"
        begun = transfer.time_staging if place.lane == STAGE else transfer.time_transferring
        return WaitingOn(what, rfc3339(begun or transfer.time_submitted))
    return WaitingOn("slot", rfc3339(transfer.time_staging_finished or transfer.time_submitted))
