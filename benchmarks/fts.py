"""Jobs in flight at FTS: requests and processor time to follow them, and the time from FINISHED there to SUCCESS here.

The peer is what the DELIV prototype did, one request a job a round, over a connection that is kept.
"""

from __future__ import annotations

import json
import sqlite3
import ssl
import subprocess
import sys
import time
from contextlib import closing, suppress
from http.client import HTTPSConnection
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import Request, urlopen

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from load import deliver_all, submission  # noqa: E402
from measuring import Hub, free_port, room, show, title  # noqa: E402

from tests.gridftp import Authority  # noqa: E402

JOBS = 2000
WATCHED = 30.0
PATIENCE = 600.0
SINGLE = 200
KEYS = """
[transfers.mover_options.gsiftp]
certificate = "{certificate}"
key = "{key}"
ca = "{ca}"
source = "gsiftp://hub.example.org"
"""
HANDED = "SELECT count(*) FROM fts_job WHERE state != ''"
LEFT = "SELECT count(*) FROM transfer WHERE status != 'SUCCESS'"
ENDED = "SELECT time_success FROM transfer"


class Fts:
    """The fake FTS as a process, and what it is told."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.certificate, self.key = authority.issue("robot")
        self.ca = authority.pem
        self._context = ssl.create_default_context(cafile=str(authority.pem))
        self._context.load_cert_chain(str(self.certificate), str(self.key))
        files = [str(each) for each in (*authority.issue("server", server=True), authority.pem)]
        self.process = subprocess.Popen([sys.executable, "-m", "tests.fakes.fts3", str(self.port), *files], cwd=TOP)
        await_that(self.answers, "the fake FTS answers")

    def answers(self) -> bool:
        with suppress(OSError):
            return "asked" in self.tell("count")
        return False

    def tell(self, what: str) -> Any:
        request = Request(f"{self.url}/fake/{what}", method="PUT")
        with urlopen(request, context=self._context, timeout=60) as answer:
            return json.load(answer)

    def singly(self, jobs: list[str]) -> float:
        """Give the seconds of a request for each job, over connections that are kept."""
        connection = HTTPSConnection("localhost", self.port, context=self._context, timeout=60)
        begun = time.perf_counter()
        for each in jobs:
            connection.request("GET", f"/jobs/{each}")
            json.load(connection.getresponse())
        took = time.perf_counter() - begun
        connection.close()
        return took


def await_that(condition: Any, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"not within {PATIENCE:g} s: {what}")
        time.sleep(0.1)


def main(count: int = JOBS) -> None:
    """Measure and print the table."""
    with room() as folder:
        fts = Fts(folder / "fts")
        try:
            measure(folder, fts, count)
        finally:
            fts.process.kill()
            fts.process.wait()


def measure(folder: Path, fts: Fts, count: int) -> None:
    """Hand over ``count`` transfers, watch them being followed, and end them."""
    hub = Hub(folder)
    (hub.archive / "product").write_bytes(b"data")
    text = hub.config.read_text().replace("[transfers.movers]", f'[transfers.movers]\ngsiftp = "fts+{fts.url}"')
    text += f"[transfers]\nfts_concurrent = {count}\n"
    hub.config.write_text(text + KEYS.format(certificate=fts.certificate, key=fts.key, ca=fts.ca))
    fts.tell("waits")
    with hub.running() as process, closing(sqlite3.connect(f"file:{hub.database}?mode=ro", uri=True)) as database:

        def ask(statement: str) -> int:
            return int(database.execute(statement).fetchone()[0])

        begun = time.perf_counter()
        deliver_all(process.port, 8, [submission("product", f"gsiftp://there/{each}") for each in range(count)])
        await_that(lambda: ask(HANDED) == count, "all are handed over")
        handing = time.perf_counter() - begun
        before, cpu = fts.tell("count")["asked"], process.cpu()
        time.sleep(WATCHED)
        asked, cpu = fts.tell("count")["asked"] - before, process.cpu() - cpu
        some = [row[0] for row in database.execute(f"SELECT job FROM fts_job LIMIT {SINGLE}")]
        single = fts.singly(some) / len(some) * count
        fts.tell("finish")
        ended = time.time()
        await_that(lambda: ask(LEFT) == 0, "all have succeeded")
        late = sorted(row[0] / 1000 - ended for row in database.execute(ENDED))
    title(f"{count} jobs in flight at FTS", "")
    show("handed over, a second", f"{count / handing:.0f}")
    show(f"requests a second to follow them, {WATCHED:g} s", f"{asked / WATCHED:.1f}")
    show("processor of the hub while it follows", f"{cpu / WATCHED:.1%}")
    show("one request a job, a whole round", f"{single:.1f} s")
    show("FINISHED there to SUCCESS here, median and last", f"{median(late):.1f} s, {late[-1]:.1f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
