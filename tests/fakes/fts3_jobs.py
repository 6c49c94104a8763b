"""Jobs as FTS3 keeps them: built and refused as fts-rest-flask 3.13 does, moved on as fts3 3.14 does.

Seen of the real server, or read in its source; a job and its files have all the fields that it shows.
"""

from __future__ import annotations

import datetime as dt
import json
from http import HTTPStatus
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

__all__ = ["BASE", "EXISTS", "FINAL", "FINAL_FILES", "Rejected", "error", "expire", "new_job", "stamp", "sum_up"]

BASE = UUID("01874efb-4735-4595-bc9c-591aef8240c9")
FINAL = ("FINISHED", "FAILED", "FINISHEDDIRTY", "CANCELED")
FINAL_FILES = ("FINISHED", "FAILED", "CANCELED", "NOT_USED")
ENDS = {"FINISHED", "FAILED", "CANCELED"}
ORDER = ("ACTIVE", "READY", "STAGING", "SUBMITTED", "ARCHIVING")
"""Which state of its files a job shows."""

EXISTS = "DESTINATION [17] Destination file exists and overwrite is not enabled"
FAILED = "One or more files failed. Please have a look at the details for more information"
QUEUED = "Job has been canceled because it stayed in the queue for too long (max-time-in-queue timeout)"
LONGEST_URL = 1100
LONGEST_SE = 255
LARGEST_METADATA = 2048
INTERNAL = (
    "The server encountered an internal error and was unable to complete your request. "
    "Either the server is overloaded or there is an error in the application."
)
NAMES = {419: "Authentication Timeout"}


class Rejected(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def error(code: int, text: str) -> dict[str, str]:
    """Give the body of an error."""
    return {"status": f"{code} {NAMES.get(code) or HTTPStatus(code).phrase}", "message": text}


def stamp(at: float) -> str:
    """Write a time as the server does, without its zone, which is UTC."""
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def new_job(asked: Any, owner: tuple[str, str], now: float, standard: str) -> dict[str, Any]:
    """Build the job that ``owner`` (DN and VO) asks for; ``standard`` is its id unless that follows from the sid."""
    try:
        return _new_job(asked, owner, now, standard)
    except ValueError as trouble:
        raise Rejected(400, f"Invalid value within the request: {trouble}") from trouble
    except (TypeError, AttributeError) as trouble:
        raise Rejected(400, f"Malformed request: {trouble}") from trouble
    except KeyError as trouble:
        raise Rejected(400, f"Missing parameter: {trouble}") from trouble


def _new_job(asked: dict[str, Any], owner: tuple[str, str], now: float, number: str) -> dict[str, Any]:
    params = {name: value for name, value in (asked.get("params") or {}).items() if value is not None}
    name, vo = owner
    if "delete" in asked:
        raise Rejected(405, "Deletion jobs are no longer supported by FTS")
    if "files" not in asked:
        raise Rejected(400, "No transfers operations specified")
    if params.get("id_generator") == "deterministic":
        if params.get("sid") is None:
            raise Rejected(400, "Need sid for deterministic job id generation")
        number = str(uuid5(uuid5(BASE, vo), "" + params["sid"]))
    metadata = {**(params.get("job_metadata") or {}), "auth_method": "certificate"}
    if len(json.dumps(metadata)) > LARGEST_METADATA:
        raise ValueError(f"Job Submission Refused, metadata exceeds size limit of {LARGEST_METADATA}")
    files = [_new_file(index, each, number, vo) for index, each in enumerate(asked["files"])]
    if not files:
        raise Rejected(400, "No valid pairs available")
    if any(len(each[what]) > LONGEST_URL for each in files for what in ("source_surl", "dest_surl")):
        raise Rejected(500, INTERNAL)
    if any(len(each[what]) > LONGEST_SE for each in files for what in ("source_se", "dest_se")):
        raise Rejected(500, INTERNAL)
    verify = params.get("verify_checksum", False)
    checked = ("b" if verify else "n") if isinstance(verify, bool) else verify[0]
    state, kind = _begin(params, files)
    known = {"job_id": number, "job_state": state, "job_type": kind, "reason": None, "user_dn": name}
    more = {"vo_name": vo, "cred_id": vo, "submit_time": stamp(now), "job_finished": None, "cancel_job": False}
    wanted = {
        "job_metadata": metadata,
        "verify_checksum": checked,
        "priority": max(1, min(5, params.get("priority", 3))),
    }
    overwrite = "Y" if params.get("overwrite") else None
    flags = {"overwrite_flag": overwrite, "dst_file_report": bool(params.get("dst_file_report"))}
    hours = params.get("max_time_in_queue")
    limit = {"max_time_in_queue": int(now + 3600 * hours) if hours else None}
    numbers = {name: int(params.get(name, 0)) for name in ("retry", "retry_delay")}
    numbers |= {name: int(params.get(name, -1)) for name in ("bring_online", "copy_pin_lifetime", "archive_timeout")}
    rest = dict.fromkeys(["internal_job_params", "target_qos", "os_project_id", "submit_host"])
    places = {name: _one(each[name] for each in files) for name in ("source_se", "dest_se")}
    return {**known, **more, **wanted, **flags, **limit, **numbers, **rest, **places, "files": files}


def _begin(params: dict[str, Any], files: list[dict[str, Any]]) -> tuple[str, str]:
    """Give ``files`` the states they begin with; that of the job, and its type."""
    staged = params.get("bring_online", -1) > 0 or params.get("copy_pin_lifetime", -1) > 0
    state = "STAGING" if staged else "SUBMITTED"
    for number, each in enumerate(files):
        each["file_state"] = "NOT_USED" if params.get("multihop") and number else state
    return state, "H" if params.get("multihop") else "N"


def _one(names: Any) -> str | None:
    found = set(names)
    return found.pop() if len(found) == 1 else None


def _new_file(index: int, asked: dict[str, Any], number: str, vo: str) -> dict[str, Any]:
    (source,), (target,) = asked["sources"], asked["destinations"]
    metadata = asked.get("metadata")
    known = {"file_id": 8872390197 + index, "file_index": index, "file_state": "SUBMITTED", "job_id": number}
    urls = {"source_surl": source.strip(), "dest_surl": target.strip(), "vo_name": vo}
    places = {"source_se": _se(source.strip()), "dest_se": _se(target.strip())}
    checksum = {"checksum": asked.get("checksum") or "ADLER32", "selection_strategy": "auto", "activity": "default"}
    sizes = {"filesize": None, "user_filesize": int(asked.get("filesize") or 0), "file_metadata": metadata}
    times = ["start_time", "finish_time", "staging_start", "staging_finished", "archive_start_time"]
    unset = ["reason", "pid", "throughput", "tx_duration", "transfer_host", "log_file", "recoverable", "dest_surl_uuid"]
    return {**known, **urls, **places, **checksum, **sizes, **dict.fromkeys(times), **dict.fromkeys(unset), "retry": 0}


def _se(url: str) -> str:
    """The storage of a URL, which has to have one."""
    parts = urlsplit(url)
    if not parts.scheme:
        raise ValueError(f"Missing scheme ({url})")
    if parts.scheme == "file":
        raise ValueError(f"Can not transfer local files ({url})")
    if not parts.path or (parts.path == "/" and not parts.query):
        raise ValueError(f"Missing path ({url})")
    if not parts.hostname:
        raise ValueError(f"Missing host ({url})")
    return f"{parts.scheme}://{parts.hostname}"


def sum_up(job: dict[str, Any], now: float) -> None:
    """Say what has become of a job as a whole; a cancelled one stays so."""
    if job["job_state"] in FINAL:
        return
    if job["job_type"] == "H":
        _hop(job["files"])
    states = [file["file_state"] for file in job["files"]]
    failed = "FAILED" in states
    if not set(states) <= ENDS and not (failed and job["job_type"] == "H"):
        # What is being got from tape has no name of its own among the states of jobs.
        found = {"STAGING" if each == "STARTED" else each for each in states}
        job["job_state"] = next((each for each in ORDER if each in found), job["job_state"])
        return
    state = "FINISHED" if set(states) == {"FINISHED"} else "CANCELED"
    if failed:
        state = "FINISHEDDIRTY" if "FINISHED" in states and job["job_type"] != "H" else "FAILED"
    job.update(job_state=state, job_finished=stamp(now), reason="" if state == "FINISHED" else FAILED)


def expire(job: dict[str, Any], now: float) -> None:
    """Cancel what has waited for too long, as FTS does from time to time; what it is copying goes on."""
    if job["max_time_in_queue"] is None or job["max_time_in_queue"] > now:
        return
    for file in job["files"]:
        if file["file_state"] in ("SUBMITTED", "STAGING", "ON_HOLD", "ON_HOLD_STAGING"):
            file.update(file_state="CANCELED", reason=QUEUED, finish_time=stamp(now))
    sum_up(job, now)


def _hop(files: list[dict[str, Any]]) -> None:
    """Let the next hop begin when the one before has ended well; else it stays NOT_USED."""
    for before, each in pairwise(files):
        if before["file_state"] == "FINISHED" and each["file_state"] == "NOT_USED":
            each["file_state"] = "SUBMITTED"
