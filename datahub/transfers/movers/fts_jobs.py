"""Deliveries as jobs of FTS: how one is written, and what has become of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from threading import Event
from typing import Any
from urllib.parse import unquote

from datahub.archive import Archive, Entry, Product
from datahub.errors import FinalFault
from datahub.files import check, digest_of, held
from datahub.kit.threads import Pool, stoppable
from datahub.transfers.model import FileRecord, printable
from datahub.transfers.movers import Checksum, Order, Remote
from datahub.transfers.movers.addresses import check_folder, check_name, final_url, quoted
from datahub.transfers.movers.fts import Fts, Job, JobFile
from datahub.transfers.movers.fts_errors import Verdict, exists, judge, waited_too_long
from datahub.transfers.movers.fts_wire import LARGEST

__all__ = ["FINAL_JOBS", "Agent", "Before", "End", "conclude", "details", "ended", "states"]

FINAL_FILES = ("FINISHED", "FAILED", "CANCELED", "NOT_USED")
FINAL_JOBS = ("FINISHED", "FAILED", "FINISHEDDIRTY", "CANCELED")
SHOWN = 100
UNTOLD = {"CANCELED": "cancelled at the FTS server", "FAILED": "FTS has told no reason"}
TOLD = 300
"""Bytes of what FTS tells of a file in `datahub.transfers.movers.fts.BRIEF`, but for its URL, or somewhat less."""

COPYING = 3 * 3600.0
PER_MIB = 2.0
"""Seconds of a copy. FTS gives it ten minutes and two seconds a MiB, and takes it for dead an hour later."""

LONGEST_URL = 1100
"""Characters of a column of FTS's; it answers 500 to more."""


@dataclass(frozen=True, slots=True)
class Before:
    """What earlier jobs of a transfer have copied, by its number; ``skip`` it, or have FTS see that it is there."""

    files: Mapping[int, FileRecord] = field(default_factory=dict)
    skip: bool = False


@dataclass(slots=True)
class Plan:
    """The ``files`` of a job; what is left out of it, and of how many ``empty`` folders FTS will not hear."""

    files: list[dict[str, Any]]
    left: int = 0
    size: int = 0
    empty: int = 0

    def leave(self, size: int) -> None:
        """Leave out a file that is there."""
        self.left += 1
        self.size += size

    @property
    def notes(self) -> dict[str, Any]:
        """What is written at the job of it."""
        before = {"before": [self.left, self.size]} if self.left else {}
        return {**before, **({"empty": self.empty} if self.empty else {})}


@dataclass(frozen=True, slots=True)
class Agent:
    """Has what goes to one scheme copied by ``server``; ``source`` is the URL that is put before paths of this host.

    A file may wait there for ``timeout`` seconds.
    """

    server: Fts
    archive: Archive
    pool: Pool
    source: str | None
    timeout: float

    def patience(self, job: Job) -> float:
        """Seconds after which a job has ended at any server that does as it is told: all waited, then were copied."""
        largest = max(map(_size, job.files), default=0)
        return self.timeout + COPYING + PER_MIB * largest / 2**20

    def check(self, destination: str) -> None:
        """Raise `InvalidRequest` unless ``destination`` is the URL of a folder on another host."""
        check_folder(destination)

    async def compose(
        self, order: Order, product: Product, sid: str, priority: int, *, careful: bool, before: Before | None = None
    ) -> dict[str, Any]:
        """The job that copies ``product``; ``careful`` if an earlier one may have copied it, or some of it.

        Then nothing is replaced, and what is there already is told where the storage can, so that `conclude` finds out
        whether it is ours. Of ``before``, what earlier jobs have copied, it is known.
        """
        check_name(product.name, order.destination)
        plan = await stoppable(self.pool, partial(self._plan, order, product, careful, before or Before()))
        if not plan.files:
            raise FinalFault(f"product {product.id!r} has no file in it, and FTS copies nothing but files")
        noted = {"datahub": order.transfer, "careful": careful, **plan.notes}
        params = {
            "verify_checksum": "both",
            "overwrite": order.overwrite and not careful,
            "dst_file_report": careful,
            "retry": -1,
            "priority": priority,
            # In hours, as all versions read it.
            "max_time_in_queue": ceil(self.timeout / 3600),
            "id_generator": "deterministic",
            "sid": sid,
            "job_metadata": noted,
        }
        return {"files": plan.files, "params": params}

    def _plan(self, order: Order, product: Product, careful: bool, before: Before, stop: Event) -> Plan:
        final = final_url(order.destination, product.name)
        named = f"{order.checksum.algorithm.upper()}:{order.checksum.value}" if order.checksum else None
        if isinstance(product, Remote):
            return Plan([_file(product.url, final, named or "ADLER32", None, 0)])
        if self.source is None:
            raise FinalFault("FTS can't reach the files of this host: say how in [transfers.mover_options] source")
        if product.is_directory and named:
            raise FinalFault(f"product {product.id!r} is a folder, and a checksum is that of a single file")
        plan, same, folders = Plan([]), 0, set[str]()
        for number, entry in self._entries(product, folders, stop):
            known = before.files.get(number)
            ours = known is not None and (known.path, known.size) == (_path(entry, product), entry.size)
            same += ours
            if ours and before.skip:
                plan.leave(entry.size)
                continue
            checksum = named or self._checksum(product, entry, careful, stop)
            target = f"{final}/{quoted(entry.path)}" if entry.path else final
            plan.files.append(
                _file(f"{self.source}{quoted(_place(entry, product))}", target, checksum, entry.size, number)
            )
            if ours:
                plan.files[-1]["metadata"]["ours"] = True
        plan.empty = len(folders)
        if sum(len(each["destinations"][0]) + TOLD for each in plan.files) > LARGEST:
            told = f"product {product.id!r} has {product.files} files, and FTS can't tell of so many in one job"
            raise FinalFault(f"{told}: deliver its folders one by one, or have gfal: move them")
        if same < len(before.files):
            # It is another product by now.
            return self._plan(order, product, careful, Before(), stop)
        return plan if plan.files else self._plan(order, product, careful, replace(before, skip=False), stop)

    def _entries(self, product: Product, folders: set[str], stop: Event) -> Iterator[tuple[int, Entry]]:
        """The files, numbered; what remains in ``folders`` are those that have nothing in them."""
        number = 0
        for entry in self.archive.walk(product):
            check(stop)
            folders.discard(entry.path.rpartition("/")[0])
            if entry.is_directory:
                folders.add(entry.path)
                continue
            if not _place(entry, product).isprintable():
                told = f"the name {_place(entry, product)!r} can't be that of a file on another host: rename it"
                raise FinalFault(told)
            yield number, entry
            number += 1

    def _checksum(self, product: Product, entry: Entry, careful: bool, stop: Event) -> str:
        if not careful:
            return "ADLER32"
        with held(self.archive.open(product, entry)) as file:
            return f"ADLER32:{digest_of(file, 'adler32', stop)}"


def _place(entry: Entry, product: Product) -> str:
    return f"{product.root}/{entry.path}" if entry.path else str(product.root)


def _path(entry: Entry, product: Product) -> str:
    """How it is called in lists."""
    return printable(entry.path or product.name)


def _file(source: str, target: str, checksum: str, size: int | None, number: int) -> dict[str, Any]:
    for url in (source, target):
        if len(url) > LONGEST_URL:
            raise FinalFault(f"FTS takes no URL of more than {LONGEST_URL} characters: {url[:SHOWN]}… has {len(url)}")
    known = {"sources": [source], "destinations": [target], "checksum": checksum, "metadata": {"number": number}}
    return known if size is None else {**known, "filesize": size}


@dataclass(frozen=True, slots=True)
class End:
    """How a job has ended: what has arrived, and ``failures`` (destination, state, reason) of all that has not.

    Of the ``files`` that have arrived the job itself has ``copied`` so many; the others were there. Of ``empty``
    folders FTS has not heard.
    """

    files: int
    copied: int
    size: int
    checksums: dict[str, str]
    failures: tuple[JobFile, ...]
    careful: bool = False
    empty: int = 0

    @property
    def running(self) -> bool:
        """Whether a copy was cancelled that has not stopped."""
        return any(_runs(each) and each.start_time is not None for each in self.failures)

    @property
    def begun(self) -> bool:
        """Whether something was being copied that has not arrived."""
        return any(each.start_time is not None for each in self.failures)

    @property
    def failed(self) -> bool:
        """Whether FTS has tried, and all was not merely cancelled."""
        return any(map(_was_tried, self.failures))

    @property
    def blocked(self) -> tuple[JobFile, ...]:
        """The files for which something was in the way that may be ours, or not: an earlier job may have left it."""
        return tuple(each for each in self.failures if self.careful and exists(each.reason or ""))

    @property
    def foreign(self) -> bool:
        """Whether a careful job met files that are not ours, and nothing else that will not pass."""
        if not self.careful or any(each.file_state != "FAILED" for each in self.failures):
            return False
        others = [each.reason or "" for each in self.failures if not exists(each.reason or "")]
        return len(others) < len(self.failures) and all(judge(each) is not Verdict.NEVER for each in others)

    @property
    def unknown(self) -> str | None:
        """A reason that nobody has classified, whole."""
        reasons = (each.reason for each in self.failures if _was_tried(each))
        return next((each for each in reasons if each and judge(each) is Verdict.UNKNOWN), None)

    @property
    def verdict(self) -> Verdict:
        """Whether another try may succeed where this one failed."""
        verdicts = {judge(each.reason or "") for each in self.failures if _was_tried(each)}
        order = (Verdict.NEVER, Verdict.UNKNOWN, Verdict.AGAIN)
        return next((each for each in order if each in verdicts), Verdict.NEVER)

    @property
    def told(self) -> str:
        """What went wrong, for people: the first reason whole."""
        first = next(filter(_was_tried, self.failures), self.failures[0])
        whole = self.files + len(self.failures)
        reason = first.reason or UNTOLD.get(first.file_state, first.file_state)
        return f"{len(self.failures)} of {whole} files failed: {reason}" if whole > 1 else reason


def conclude(job: Job, *, overdue: bool = False) -> End | None:
    """How ``job`` has ended; None while it goes on, be it only that a cancelled copy has not stopped.

    That is not waited for any more when it is ``overdue``, nor are files that a ban of their storage holds back. A job
    that is told without its files has ended as its state says: FINISHED is that all have arrived.
    """
    if job.job_state not in FINAL_JOBS:
        return None
    if not overdue and not all(each.file_state in FINAL_FILES and not _runs(each) for each in job.files):
        return None
    careful = bool(job.noted("careful"))
    arrived: list[JobFile] = []
    failed: list[JobFile] = []
    for each in job.files:
        (arrived if _has_arrived(each, careful) else failed).append(each)
    failures = tuple(failed)
    if not job.files and job.job_state != "FINISHED":
        failures = (JobFile(file_state=job.job_state, reason=job.reason or f"the job is {job.job_state}"),)
    copied = sum(each.file_state == "FINISHED" for each in arrived)
    left, size = job.noted("before") or (0, 0)
    checksums = {} if left else _checksums(arrived)
    size += sum(map(_size, arrived))
    return End(left + len(arrived), copied, size, checksums, failures, careful, job.noted("empty") or 0)


def ended(job: Job, final: str) -> list[FileRecord]:
    """The files of a job whose copy has ended, well or not, for the list of the transfer whose product is ``final``."""
    careful = bool(job.noted("careful"))
    found = []
    for each in job.files:
        if each.number is None or each.file_state not in FINAL_FILES or _runs(each):
            continue
        error = None if _has_arrived(each, careful) else each.reason or f"FTS says {each.file_state}"
        checksum = None if error else _adler(each)
        whole = each.dest_surl == final
        path = unquote(each.dest_surl.rpartition("/")[2] if whole else each.dest_surl.removeprefix(f"{final}/"))
        found.append(FileRecord(each.number, printable(path), _size(each), checksum, error))
    return found


def _adler(file: JobFile) -> Checksum | None:
    """The Adler-32 by which FTS has verified it, where it was given one."""
    algorithm, _, value = (file.checksum or "").partition(":")
    return Checksum("adler32", value.lower()) if algorithm.upper() == "ADLER32" and value else None


def _has_arrived(file: JobFile, careful: bool) -> bool:
    return file.file_state == "FINISHED" or (careful and _is_ours(file))


def _was_tried(file: JobFile) -> bool:
    """Whether FTS could not copy it, or came to no copy in time: not that somebody has cancelled it."""
    return file.file_state == "FAILED" or waited_too_long(file.reason or "")


def _runs(file: JobFile) -> bool:
    return file.file_state == "CANCELED" and file.finish_time is None


def _size(file: JobFile) -> int:
    return int(file.filesize or file.user_filesize or 0)


def _checksums(files: list[JobFile]) -> dict[str, str]:
    """That of a single file, if the server tells it."""
    if len(files) != 1:
        return {}
    algorithm, _, value = (files[0].checksum or "").partition(":")
    return {algorithm.lower(): value.lower()} if value else {}


def _is_ours(file: JobFile) -> bool:
    """Whether what was in the way is what was to be copied.

    Where the storage reports it, it has to have size and checksum; else an earlier job of ours must have copied it.
    """
    if file.file_state != "FAILED" or not exists(file.reason or ""):
        return False
    there = file.noted("dst_file")
    if not isinstance(there, dict):
        return bool(file.noted("ours"))
    algorithm, _, value = (file.checksum or "").partition(":")
    same_kind = str(there.get("checksum_type", "")).upper() == algorithm.upper()
    same_sum = bool(value) and str(there.get("checksum_value", "")).lstrip("0").lower() == value.lstrip("0").lower()
    return there.get("file_size") == _size(file) and same_kind and same_sum


def states(job: Job) -> Counter[str]:
    """How many files are in which state."""
    return Counter(each.file_state for each in job.files)


def details(server: str, job: Job) -> dict[str, Any]:
    """What is shown of a job: its state, how many files are in which, bytes that have arrived, and what has failed."""
    failed = [each for each in job.files if each.reason and each.file_state != "FINISHED"]
    found: dict[str, Any] = {"server": server, "job_id": job.job_id, "job_state": job.job_state}
    if job.reason:
        found["reason"] = job.reason
    found["files"] = dict(states(job))
    arrived = [_size(each) for each in job.files if each.file_state == "FINISHED"]
    size = (job.noted("before") or (0, 0))[1] + sum(arrived)
    if size and len(arrived) < len(job.files):
        found["bytes"] = size
    if failed:
        found["failures"] = [
            {"destination": each.dest_surl, "state": each.file_state, "reason": each.reason} for each in failed[:SHOWN]
        ]
    return found
