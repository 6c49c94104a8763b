"""The time from a stager's call-back to the start of the move, against that of the call-back's own answer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from statistics import quantiles
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlencode

from measuring import Hub, free_port, room, show, spread, title

COUNT = 100
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def main(count: int = COUNT) -> None:
    """Measure and print the table."""
    asked: SimpleQueue[dict[str, str]] = SimpleQueue()
    with room() as folder, stager(asked) as address:
        staged = folder / "staged"
        staged.mkdir()
        (staged / "product").write_bytes(b"x")
        options = {"stager": address, "staged": str(staged), "callback": "http://127.0.0.1:1/doneStaging"}
        hub = Hub(folder / "hub", more={"transfers": options})
        with hub.running():
            found = [deliver(hub, asked, staged / "product", number) for number in range(count)]
    moves, answers = zip(*found[count // 10 :], strict=True)
    title("from the call-back to the start of the move", "milliseconds", "of the call-back's answer")
    show("median", spread(moves), spread([move / answer for move, answer in found[count // 10 :]]))
    show("99 %", f"{quantiles(moves, n=100)[98]:.2f}", "")
    show("the call-back's answer", spread(answers), "1")


def deliver(hub: Hub, asked: SimpleQueue[dict[str, str]], product: Path, number: int) -> tuple[float, float]:
    """Let one product be staged; milliseconds from the call-back to the move, and to the call-back's answer."""
    wanted = {"product_id": "product", "destination_path": f"{hub.deliveries.as_uri()}/{number}"}
    job = json.loads(call(hub.port, "POST", "/submitTransfer", wanted))["job_id"]
    errand = asked.get(timeout=30)
    report = {key: errand[key] for key in ("job_id", "product_id", "authcode")}
    report |= {"success": "True", "staged_to": "localhost", "path": str(product), "msg": "done"}
    begun = time.time()
    call(hub.port, "POST", "/doneStaging", report)
    answered = time.time() - begun
    record: dict[str, Any] = json.loads(call(hub.port, "GET", f"/transfers/{job}?wait=30s"))
    if record["status"] != "SUCCESS":
        sys.exit(f"not delivered: {record}")
    moved = datetime.fromisoformat(record["time_transferring"]).timestamp() - begun
    return max(moved, 0.0005) * 1000, answered * 1000


def call(port: int, method: str, path: str, form: dict[str, str] | None = None) -> bytes:
    """Ask the hub, and give the body of a good answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, urlencode(form) if form else None, FORM if form else {})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status >= 300:
        sys.exit(f"{method} {path}: {answer.status} {body!r}")
    return body


@contextmanager
def stager(asked: SimpleQueue[dict[str, str]]) -> Iterator[str]:
    """Run a stager that takes every errand; they come out of ``asked``."""

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            asked.put(dict(parse_qsl(form)))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Take)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:2]))
