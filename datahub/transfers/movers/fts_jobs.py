"""Deliveries as jobs of FTS: how one is written, and what has become of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

from datahub.archive import Archive, Product
from datahub.errors import FinalFault
from datahub.files import check, digest_of, held
from datahub.kit.threads import Pool, stoppable
from datahub.transfers.movers import Order, Remote
from datahub.transfers.movers.addresses import check_folder, check_name, final_url, quoted
from datahub.transfers.movers.fts import Fts, Job, JobFile
from datahub.transfers.movers.fts_errors import Verdict, exists, judge

__all__ = ["Agent", "End", "conclude", "details"]

FINAL_FILES = ("FINISHED", "FAILED", "CANCELED", "NOT_USED")
FINAL_JOBS = ("FINISHED", "FAILED", "FINISHEDDIRTY", "CANCELED")
SHOWN = 100
LONGEST_URL = 1100
"""Characters of a column of FTS's; it answers 500 to more."""


@dataclass(frozen=True, slots=True)
class Agent:
    """Has what goes to one scheme copied by ``server``; ``source`` is the URL that is put before paths of this host."""

    server: Fts
    archive: Archive
    pool: Pool
    source: str | None

    def check(self, destination: str) -> None:
        """Raise `InvalidRequest` unless ``destination`` is the URL of a folder on another host."""
        check_folder(destination)

    async def compose(
        self, order: Order, product: Product, sid: str, priority: int, *, careful: bool
    ) -> dict[str, Any]:
        """The job that copies ``product``; ``careful`` if an earlier one may have copied it, or some of it.

        Then nothing is replaced, and what is there already is told, so that `conclude` finds out whether it is ours.
        """
        check_name(product.name, order.destination)
        files = await stoppable(self.pool, partial(self._files, order, product, careful))
        if not files:
            raise FinalFault(f"product {product.id!r} has no file in it, and FTS copies nothing but files")
        params = {
            "verify_checksum": "both",
            "overwrite": order.overwrite and not careful,
            "dst_file_report": careful,
            "retry": -1,
            "priority": priority,
            "id_generator": "deterministic",
            "sid": sid,
            "job_metadata": {"datahub": order.transfer, "careful": careful},
        }
        return {"files": files, "params": params}

    def _files(self, order: Order, product: Product, careful: bool, stop: Event) -> list[dict[str, Any]]:
        final = final_url(order.destination, product.name)
        named = f"{order.checksum.algorithm.upper()}:{order.checksum.value}" if order.checksum else None
        if isinstance(product, Remote):
            return [_file(product.url, final, named or "ADLER32", None)]
        if self.source is None:
            raise FinalFault("FTS can't reach the files of this host: say how in [transfers.mover_options] source")
        if product.is_directory and named:
            raise FinalFault(f"product {product.id!r} is a folder, and a checksum is that of a single file")
        return list(self._entries(product, final, named, careful, stop))

    def _entries(
        self, product: Product, final: str, named: str | None, careful: bool, stop: Event
    ) -> Iterator[dict[str, Any]]:
        for entry in self.archive.walk(product):
            check(stop)
            if entry.is_directory:
                continue
            path = f"{product.root}/{entry.path}" if entry.path else str(product.root)
            if not path.isprintable():
                raise FinalFault(f"the name {path!r} can't be that of a file on another host: rename it")
            checksum = named or "ADLER32"
            if careful and named is None:
                with held(self.archive.open(product, entry)) as file:
                    checksum = f"ADLER32:{digest_of(file, 'adler32', stop)}"
            target = f"{final}/{quoted(entry.path)}" if entry.path else final
            yield _file(f"{self.source}{quoted(path)}", target, checksum, entry.size)


def _file(source: str, target: str, checksum: str, size: int | None) -> dict[str, Any]:
    for url in (source, target):
        if len(url) > LONGEST_URL:
            raise FinalFault(f"FTS takes no URL of more than {LONGEST_URL} characters: {url[:SHOWN]}… has {len(url)}")
    known = {"sources": [source], "destinations": [target], "checksum": checksum}
    return known if size is None else {**known, "filesize": size}


@dataclass(frozen=True, slots=True)
class End:
    """How a job has ended: what has arrived, and ``failures`` (destination, state, reason) of all that has not.

    Of the ``files`` that have arrived the job itself has ``copied`` so many; the others were there.
    """

    files: int
    copied: int
    size: int
    checksums: dict[str, str]
    failures: tuple[JobFile, ...]
    careful: bool = False

    @property
    def foreign(self) -> bool:
        """Whether a careful job met files that are not ours, and nothing else that will not pass."""
        if not self.careful or any(each.file_state != "FAILED" for each in self.failures):
            return False
        others = [each.reason or "" for each in self.failures if not exists(each.reason or "")]
        return len(others) < len(self.failures) and all(judge(each) is not Verdict.NEVER for each in others)

    @property
    def verdict(self) -> Verdict:
        """Whether another try may succeed where this one failed."""
        verdicts = {judge(each.reason or "") for each in self.failures if each.file_state == "FAILED"}
        order = (Verdict.NEVER, Verdict.UNKNOWN, Verdict.AGAIN)
        return next((each for each in order if each in verdicts), Verdict.NEVER)

    @property
    def told(self) -> str:
        """What went wrong, for people: the first reason whole."""
        first = next((each for each in self.failures if each.file_state == "FAILED"), self.failures[0])
        whole = self.files + len(self.failures)
        reason = first.reason or ("cancelled at the FTS server" if first.file_state == "CANCELED" else first.file_state)
        return f"{len(self.failures)} of {whole} files failed: {reason}" if whole > 1 else reason


def conclude(job: Job, *, overdue: bool = False) -> End | None:
    """How ``job`` has ended; None while it goes on, be it only that a cancelled copy has not stopped.

    That is not waited for any more when it is ``overdue``.
    """
    if job.job_state not in FINAL_JOBS or not all(each.file_state in FINAL_FILES for each in job.files):
        return None
    if not overdue and any(each.file_state == "CANCELED" and _runs(each) for each in job.files):
        return None
    careful = isinstance(job.job_metadata, dict) and bool(job.job_metadata.get("careful"))
    arrived = [each for each in job.files if each.file_state == "FINISHED" or (careful and _is_ours(each))]
    failures = tuple(each for each in job.files if each not in arrived)
    if not job.files:
        failures = (JobFile(file_state=job.job_state, reason=job.reason or f"the job is {job.job_state}"),)
    copied = sum(each.file_state == "FINISHED" for each in arrived)
    return End(len(arrived), copied, sum(map(_size, arrived)), _checksums(arrived), failures, careful)


def _runs(file: JobFile) -> bool:
    return file.start_time is not None and file.finish_time is None


def _size(file: JobFile) -> int:
    return int(file.filesize or file.user_filesize or 0)


def _checksums(files: list[JobFile]) -> dict[str, str]:
    """That of a single file, if the server tells it."""
    if len(files) != 1:
        return {}
    algorithm, _, value = (files[0].checksum or "").partition(":")
    return {algorithm.lower(): value.lower()} if value else {}


def _is_ours(file: JobFile) -> bool:
    """Whether what was in the way is what was to be copied: it has its size, and its checksum where that is known."""
    there = file.file_metadata.get("dst_file") if isinstance(file.file_metadata, dict) else None
    if file.file_state != "FAILED" or not exists(file.reason or "") or not isinstance(there, dict):
        return False
    algorithm, _, value = (file.checksum or "").partition(":")
    same_kind = str(there.get("checksum_type", "")).upper() == algorithm.upper()
    same_sum = bool(value) and str(there.get("checksum_value", "")).lstrip("0").lower() == value.lstrip("0").lower()
    return there.get("file_size") == _size(file) and same_kind and same_sum


def details(server: str, job: Job) -> dict[str, Any]:
    """What is shown of a job: its state, how many files are in which, and the reasons of those that failed."""
    failed = [each for each in job.files if each.reason and each.file_state != "FINISHED"]
    found: dict[str, Any] = {"server": server, "job_id": job.job_id, "job_state": job.job_state}
    if job.reason:
        found["reason"] = job.reason
    found["files"] = dict(Counter(each.file_state for each in job.files))
    if failed:
        found["failures"] = [
            {"destination": each.dest_surl, "state": each.file_state, "reason": each.reason} for each in failed[:SHOWN]
        ]
    return found
