"""The fake stager's process, and hubs that stage by it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from tests.fakes.stager import HOST, stage
from tests.whole.daemon import ROOT, Answer, Daemon, Sections, free_port, until
from tests.whole.site import Site

__all__ = ["Staging"]

Fields = dict[str, str]


class Staging:
    """A stager beside a site; it may be away for a while."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.staged = site.folder / "staged"
        self.staged.mkdir()
        self.url = f"http://127.0.0.1:{free_port()}/"
        self._log = site.folder / "stager.err"
        self._process: subprocess.Popen[bytes] | None = None

    def hub(self, node: str = "hub1", sections: Sections | None = None, **transfers: Any) -> Daemon:
        """Configure a hub that stages by this stager, one product at a time."""
        known = {
            "stager": self.url,
            "staged": str(self.staged),
            "staging_concurrent": 1,
            "callback": "http://127.0.0.1:{port}/doneStaging",
            **transfers,
        }
        daemon = self.site.hub(node, {**(sections or {}), "transfers": known})
        daemon.config.write_text(daemon.config.read_text().replace("{port}", str(daemon.port)))
        return daemon

    def start(self, manner: str = "works") -> None:
        """Start the process, and tell it how to behave."""
        port = self.url.rstrip("/").rpartition(":")[2]
        command = [sys.executable, "-m", "tests.fakes.stager", port, str(self.site.archive), str(self.staged)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdin=subprocess.DEVNULL)
        until(self._answers, "a stager that answers")
        self.behave(manner)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def behave(self, manner: str) -> None:
        """Say how the next requests are treated."""
        urlopen(Request(f"{self.url}manner", manner.encode(), method="PUT"), timeout=60).close()

    def _answers(self) -> bool:
        with suppress(URLError, OSError), urlopen(f"{self.url}seen", timeout=60):
            return True
        return False

    def seen(self, what: str) -> list[Any]:
        """What it was asked, or the answers to its reports."""
        with urlopen(f"{self.url}seen", timeout=60) as answer:
            found: list[Any] = json.load(answer)[what]
        return found

    def asked(self, job: str, count: int = 1) -> Fields:
        """What it was asked for a job, the request number ``count``, once it was."""

        def requests() -> list[Fields]:
            found = [each for each in self.seen("asked") if each["job_id"] == job]
            return found if len(found) >= count else []

        fields: Fields = until(requests, f"request {count} for {job}", 30)[count - 1]
        return fields

    def report_of(self, fields: Fields, **others: str) -> Fields:
        """Stage what was asked for, and give the report, not sent yet, with ``others`` in place of what is right."""
        path = others.get("path") or str(stage(self.site.archive, self.staged, fields["product_id"]))
        known = {name: fields[name] for name in ("job_id", "product_id", "authcode")}
        return {**known, "success": "True", "staged_to": HOST, "path": path, "msg": "done", **others}


def report(daemon: Daemon, fields: Fields, method: str = "POST", **headers: str) -> Answer:
    """Send a report to a hub."""
    if method == "GET":
        return daemon.call("GET", f"/doneStaging?{urlencode(fields)}", None, headers)
    form = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    return daemon.call("POST", "/doneStaging", urlencode(fields), form)


def files_with(folder: Path, text: str) -> list[Path]:
    """The files below ``folder`` that hold ``text``, the database's own included."""
    return [each for each in folder.rglob("*") if each.is_file() and text.encode() in each.read_bytes()]
