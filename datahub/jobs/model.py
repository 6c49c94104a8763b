"""What a job is: its states, its record, what a caller may ask for, and the words for its end. Pure values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final

import msgspec

from datahub.errors import InvalidRequest
from datahub.kit import filters
from datahub.kit.sizes import parse_duration, parse_size
from datahub.processes.runner import Ended, Written

__all__ = [
    "API",
    "SHUTDOWN",
    "Change",
    "Creation",
    "Filter",
    "Job",
    "Limits",
    "Spec",
    "Status",
    "check_texts",
    "limits_of",
    "reason_of",
    "seconds_of",
    "signal_name",
]

API: Final = "API"
SHUTDOWN: Final = "Service Shutdown"
LONGEST_ARGUMENT: Final = 131_071
"""Bytes of one argument, or of one variable: Linux takes no longer one (MAX_ARG_STRLEN, with its NUL)."""
LONGEST_TIME: Final = 999 * 86400.0

Count = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
Amount = Count | str


class Status(StrEnum):
    """Where a job stands; the last one is final."""

    CREATED = "created"
    STARTED = "started"
    STOPPED = "stopped"

    @property
    def final(self) -> bool:
        """Whether nothing changes any more."""
        return self is Status.STOPPED


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a job may use: ``memory`` and ``file_size`` in bytes or as "1 GiB", ``cpu_time`` in seconds or as "1 h".

    All but ``processes``, which counts the job's together, are for each of its processes (setrlimit(2)).
    """

    memory: Amount | None = None
    cpu_time: Amount | None = None
    open_files: Count | None = None
    processes: Count | None = None
    file_size: Amount | None = None


class Creation(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /jobs``: ``command`` for bash, or ``argv``, and how it is to be run."""

    ANY_CASE: ClassVar = frozenset({"command"})
    IGNORED: ClassVar = frozenset({"id", "status", "logs", "reasonForExit"})

    command: str | msgspec.UnsetType = msgspec.UNSET
    argv: list[str] | None = None
    timeout: float | str | None = None
    grace: float | str | None = None
    cwd: str | None = None
    env: dict[str, str] | None = None
    stdin: str | None = None
    limits: Limits | None = None
    name: Annotated[str, msgspec.Meta(max_length=190)] | None = None
    separate: bool = False
    start: bool = False


class Change(msgspec.Struct, frozen=True):
    """The body of ``PUT /jobs/{id}``, of which only ``status`` is read: started or stopped."""

    ANY_CASE: ClassVar = frozenset({"status"})
    IGNORED: ClassVar = frozenset({"*"})

    status: str


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job is run: ``argv`` without the wrapper, times in seconds; ``keep`` bytes of each stream are kept."""

    argv: list[str]
    timeout: float
    grace: float
    cwd: str
    keep: int
    env: dict[str, str] = {}
    limits: dict[str, int] = {}
    stdin: str | None = None
    separate: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the table; times are milliseconds since 1970. ``spec`` is None where it was not asked for.

    ``process`` is the pid, start and boot of its first process; ``usage`` as `Ended` has it.
    """

    id: str
    submitter: str
    name: str | None
    status: Status
    command: str
    shell: bool
    spec: Spec | None
    reason: str
    detail: str | None
    node: str | None
    process: str | None
    exit_code: int | None
    signal: str | None
    usage: tuple[float, float, int] | None
    output: tuple[Written, ...]
    time_created: int
    time_requested: int | None
    time_started: int | None
    time_stopped: int | None


@dataclass(frozen=True, slots=True)
class Filter(filters.Filter):
    """Which jobs; ``name`` is one that its submitter gave."""

    name: str | None = None


def seconds_of(field: str, given: float | str | None, default: float, least: float) -> float:
    """Seconds, of a number of them or a text such as "5 min"; raises `InvalidRequest`."""
    if given is None:
        return default
    wanted = f'seconds, or a text such as "5 min", from {least:g} s to 999 d'
    try:
        found = float(given) if isinstance(given, int | float) else _seconds(given)
    except ValueError:
        found = math.nan
    if not least <= found <= LONGEST_TIME:
        raise InvalidRequest(f"{field} is {given!r:.60}; it must be {wanted}", field=field)
    return found


def _seconds(text: str) -> float:
    return float(text) if text.strip().replace(".", "", 1).isdecimal() else parse_duration(text)


def limits_of(asked: Limits | None, defaults: Mapping[str, int]) -> dict[str, int]:
    """The limits in bytes, seconds and pieces; raises `InvalidRequest`."""
    found = dict(defaults)
    for name, value in msgspec.structs.asdict(asked or Limits()).items():
        if value is not None:
            found[name] = _amount(name, value)
    return found


def _amount(name: str, value: int | str) -> int:
    try:
        if isinstance(value, int):
            return value
        number = math.ceil(_seconds(value)) if name == "cpu_time" else parse_size(value)
    except ValueError:
        number = 0
    if not 1 <= number <= 2**40:
        right = 'a time such as "1 h"' if name == "cpu_time" else 'a size such as "1 GiB"'
        raise InvalidRequest(f"limits.{name} is {value!r:.60}; it must be {right}", field="limits")
    return number


def check_texts(field: str, texts: list[str]) -> None:
    """Raise `InvalidRequest` unless Linux takes each of ``texts`` as an argument."""
    for text in texts:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidRequest(f"{field} holds half of a surrogate pair, which is no text", field=field) from None
        if size > LONGEST_ARGUMENT:
            raise InvalidRequest(
                f"{field} has {size} bytes; one argument may have {LONGEST_ARGUMENT}: send the rest as stdin",
                field=field,
            )


# The names that Go gives to Linux's signals, which clients of the original know.
WORDS: Final = """
hangup,interrupt,quit,illegal instruction,trace/breakpoint trap,aborted,bus error,floating point exception,killed,
user defined signal 1,segmentation fault,user defined signal 2,broken pipe,alarm clock,terminated,stack fault,
child exited,continued,stopped (signal),stopped,stopped (tty input),stopped (tty output),urgent I/O condition,
CPU time limit exceeded,file size limit exceeded,virtual timer expired,profiling timer expired,window changed,
I/O possible,power failure,bad system call
"""
SIGNALS: Final = WORDS.replace("\n", "").split(",")


def signal_name(number: int) -> str:
    """Signal ``number`` in words, as the original tells it."""
    return SIGNALS[number - 1] if 1 <= number <= len(SIGNALS) else f"signal {number}"


def reason_of(ended: Ended) -> str:
    """The ``reasonForExit``: the original's texts, and those for what it could not tell."""
    if ended.lost is not None:
        return "lost"
    if ended.error is not None:
        return f"could not be executed: {ended.error}"
    if ended.cause is not None:
        return {"processes": "limit of processes exceeded"}.get(ended.cause, ended.cause)
    if ended.signal is not None:
        return f"process finished with error: signal: {signal_name(ended.signal)}" + " (core dumped)" * ended.core
    return "process finished" if not ended.code else f"process finished with error: exit status {ended.code}"


def texts_of(spec: Mapping[str, Any]) -> list[str]:
    """Name and value of each variable as Linux keeps them."""
    return [f"{name}={value}" for name, value in spec.items()]
