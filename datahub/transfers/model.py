"""What a transfer is: its states, its record, and what a caller may ask for. Pure values, no SQL, no Twisted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from datahub.errors import InvalidRequest
from datahub.kit import filters
from datahub.transfers.movers import Checksum, Delivery

__all__ = [
    "FINAL",
    "FileRecord",
    "Filter",
    "Place",
    "Status",
    "Submission",
    "Submitted",
    "Transfer",
    "parse_checksum",
    "printable",
]


class Status(StrEnum):
    """Where a transfer stands; the last three are final."""

    SUBMITTED = "SUBMITTED"
    STAGING = "STAGING"
    TRANSFERRING = "TRANSFERRING"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    ERROR = "ERROR"
    SUCCESS = "SUCCESS"

    @property
    def final(self) -> bool:
        """Whether nothing changes any more."""
        return self in (Status.CANCELLED, Status.ERROR, Status.SUCCESS)


FINAL = tuple(status for status in Status if status.final)


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of ``/submitTransfer``; the first two must be given, in the prototype's words if they are not."""

    product_id: str = ""
    destination_path: str = ""
    overwrite: bool = False
    checksum: str | None = None
    priority: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    deadline: str | None = None


class Submitted(msgspec.Struct, frozen=True):
    """The answer to a submission."""

    job_id: str | None
    error: bool
    msg: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """One row of the table; times are milliseconds since 1970."""

    id: str
    product_id: str
    destination_path: str
    submitter: str
    overwrite: bool
    checksum: str | None
    priority: int
    deadline: int | None
    status: Status
    detailed_status: str | None
    stager_path: str | None
    stager_hostname: str | None
    stager_status: str | None
    staging_attempt: str | None
    staging_report: str | None
    files: int | None
    size: int | None
    checksums: dict[str, str] | None
    delivery: Delivery | None
    fts_attempt: str | None
    fts_jobid: str | None
    fts_details: dict[str, Any] | None
    attempts: int
    failing_since: int | None
    time_submitted: int
    time_staging: int | None
    time_staging_finished: int | None
    time_transferring: int | None
    time_error: int | None
    time_success: int | None
    time_cancelled: int | None
    since: int | None
    """When it last got on: was submitted, staged, begun to be moved; a step that is tried again does not count."""
    check_at: int | None
    stuck_at: int | None
    late_since: int | None
    """Since when promises were broken: the stager's to call back, FTS's to copy."""


@dataclass(frozen=True, slots=True)
class Filter(filters.Filter):
    """Which transfers: those to ``destination``, or those that are ``stuck``."""

    destination: str | None = None
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that was copied, or whose copy failed with ``error``; ``number`` is its place in the product's list."""

    number: int
    path: str
    size: int
    checksum: Checksum | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """A transfer's place in the ledger, while it has one."""

    lane: str
    state: str
    due: int | None
    attempt: int


ALGORITHMS = {"ADLER32": 8, "MD5": 32, "SHA256": 64}
"""The checksums that can be asked for, and their length in hexadecimal digits."""


def parse_checksum(text: str | None) -> Checksum | None:
    """Read ``ALGORITHM:hex digits`` as FTS writes it; raises `InvalidRequest`."""
    if text is None:
        return None
    algorithm, _, digits = text.partition(":")
    expected = ALGORITHMS.get(algorithm.upper().replace("-", ""))
    if expected is None or len(digits) != expected or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
        known = ", ".join(f"{name}:<{length} hex digits>" for name, length in ALGORITHMS.items())
        raise InvalidRequest(f"checksum {text[:100]!r} is not one of {known}", field="checksum")
    return Checksum(algorithm.lower().replace("-", ""), digits.lower())


def printable(path: object) -> str:
    """A path as text for records; bytes that are not UTF-8 are written in hexadecimal."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
