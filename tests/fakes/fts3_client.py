"""What the fake FTS3 is proven by: its own Python client, from PyPI, run in an environment that has it.

``python fts3_client.py URL CERTIFICATE KEY CA_FOLDER CA`` does what a user of FTS does, and prints what it saw as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from typing import Any

import fts3.rest.client.easy as fts
import requests  # type: ignore[import-untyped]  # where the client runs, there are no stubs


def refused(call: Any, *values: Any, **named: Any) -> str:
    """Give the name of the error that a call must raise."""
    try:
        call(*values, **named)
    except Exception as error:
        return type(error).__name__
    return ""


def new_job(*names: str, sid: str | None = None, **more: Any) -> Any:
    """Describe a job of some files."""
    files = [
        fts.new_transfer(f"gsiftp://a.example.org/{each}", f"gsiftp://b.example.org/{each}", filesize=1000)
        for each in names
    ]
    deterministic = fts.JobIdGenerator.deterministic if sid else fts.JobIdGenerator.standard
    return fts.new_job(files, verify_checksum=True, overwrite=False, sid=sid, id_generator=deterministic, **more)


def main(url: str, certificate: str, key: str, folder: str, authority: str) -> None:
    """Delegate, submit, look, cancel; see how jobs fail, are purged, and what is reported."""
    seen: dict[str, Any] = {}
    context = fts.Context(url, certificate, key, verify=True, capath=folder)
    seen["whoami"] = fts.whoami(context)
    seen["undelegated"] = refused(fts.Submitter(context).submit, transfers=new_job("x")["files"])
    seen["delegation"] = fts.delegate(context, timedelta(hours=7), force=True)
    one = fts.submit(context, new_job("1", "2"))
    own = fts.submit(context, new_job("3", sid="the-sid"))
    seen["ids"] = [one, own]
    seen["again"] = refused(fts.submit, context, new_job("3", sid="the-sid"))
    seen["bad"] = refused(fts.submit, context, {"files": [], "params": {}})
    seen["status"] = fts.get_job_status(context, one, list_files=True)
    seen["many"] = fts.get_jobs_statuses(context, [one, own])
    seen["unknown"] = refused(fts.get_job_status, context, "nothing")
    # With the manner "works" it gets on each time somebody asks.
    for _ in range(5):
        time.sleep(0.01)
        seen["end"] = fts.get_job_status(context, own)["job_state"]
    later = fts.submit(context, new_job("4"))
    seen["cancelled"] = [fts.cancel(context, later) for _ in range(2)]
    seen["mixed"] = refused(fts.get_jobs_statuses, context, [own, "nothing"])

    def tell(what: str, **how: Any) -> None:
        """Tell the fake what to do with a job."""
        requests.put(f"{url}/fake/{what}", params=how, cert=(certificate, key), verify=authority, timeout=10)

    for state in ("FAILED", "FINISHED"):
        dirty = fts.submit(context, new_job(f"{state}-a", f"{state}-b"))
        tell("finish", job=dirty, state=[state, "FAILED"])
        seen[state] = fts.get_job_status(context, dirty, list_files=True)
    seen["uncancelled"] = refused(fts.cancel, context, "nothing")
    tell("archive", job=dirty)
    seen["purged"] = refused(fts.get_job_status, context, dirty)
    seen["archived"] = json.loads(context.get(f"/archive/{dirty}"))
    seen["nowhere"] = refused(context.get, "/archive/nothing")
    reported = fts.submit(context, new_job("3", dst_file_report=True))
    tell("finish", job=reported)
    seen["reported"] = fts.get_job_status(context, reported, list_files=True)
    sys.stdout.write(json.dumps(seen, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
