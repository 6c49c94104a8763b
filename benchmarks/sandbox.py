"""1 GiB from a sandbox, against nginx and a proxy as the old one was; and what 1,000 fetches ask of Mesos.

Mesos is played by an nginx that gives recorded answers, so that it is never what is slow. nginx, Flask, requests and
gunicorn must be installed.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from measuring import TICKS, Hub, Process, alternate, free_port, ratio, room, show, spread, title

ROUNDS = 3
MIB = 2**20
SIZE = 1024 * MIB
# The old proxy is so slow that a part tells enough.
PART = 128 * MIB
AGENT, FRAMEWORK, TASK = "bench-S0", "bench-0000", "big"
SANDBOX = f"/var/lib/mesos/slaves/{AGENT}/frameworks/{FRAMEWORK}/executors/{TASK}/runs/c1"
FETCHES = 1000
CALLERS = 50

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log {folder}/access.log; sendfile on; default_type application/octet-stream;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {folder}; {rules} }}
}}
"""
MESOS = """
location = /master/state {{ alias {folder}/master.json; }}
location = /master/tasks {{ return 404; }}
location = /state {{ alias {folder}/agent.json; }}
location = /files/download {{ alias {folder}/$arg_path; }}
"""
PROXY = "location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_buffering on; proxy_max_temp_file_size 0; }}"
FLASK = """
import requests
from flask import Flask, Response, request

app = Flask(__name__)


@app.route("/fetch")
def fetch():
    answer = requests.get("{url}", stream=True)
    return Response(answer.iter_content(1024), headers={{"Content-Length": answer.headers["content-length"]}})
"""


def main(rounds: int = ROUNDS) -> None:
    """Measure and print the tables."""
    with room() as folder, mesos(folder / "mesos") as upstream, proxies(folder, upstream) as peers:
        hub = Hub(folder / "hub", workers=())
        hub.config.write_text(
            hub.config.read_text() + f'\n[sandbox]\nmasters = ["http://127.0.0.1:{upstream.port}"]\nlimit = "2 GiB"\n'
        )
        with hub.running() as process:
            ways = {
                "hub": (process, "/fetch/big?filename=huge", SIZE),
                "nginx": (peers["nginx"], f"/files/download?path={SANDBOX}/huge", SIZE),
                "Flask, 1 KiB at a time": (peers["Flask"], "/fetch", PART),
            }
            throughput(ways, rounds)
            thousand(process, folder / "mesos" / "access.log")


def throughput(ways: dict[str, tuple[Process, str, int]], rounds: int) -> None:
    """Download the large file by each way."""
    costs: dict[str, list[float]] = {name: [] for name in ways}

    def by(name: str) -> float:
        process, path, size = ways[name]
        before = process.cpu()
        seconds = download(process.port, path, size)
        costs[name].append((process.cpu() - before) * SIZE / size)
        return size / MIB / seconds

    found = alternate(rounds, {name: lambda name=name: by(name) for name in ways})
    title("1 GiB through a proxy", "MiB/s", "the hub is faster by", "CPU s a GiB")
    for name, values in found.items():
        show(name, spread(values, 0), spread(ratio(found["hub"], values)), spread(costs[name]))
    memory = ways["hub"][0].memory("VmHWM")
    show("the hub's memory at its peak, MiB", f"{memory:.0f}")


def download(port: int, path: str, wanted: int) -> float:
    """Give the seconds that curl takes."""
    url = f"http://127.0.0.1:{port}{path}"
    command = ["curl", "-s", "--fail", "-o", "/dev/null", "-w", "%{time_total} %{size_download}", url]
    seconds, size = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    if int(size) != wanted:
        raise SystemExit(f"{url} gave {size} bytes")
    return float(seconds)


def thousand(process: Process, access_log: Path) -> None:
    """Fetch a small file a thousand times over some connections at once."""
    seen, before = access_log.read_text().count("/master/state"), process.cpu()

    def fetch() -> None:
        urls = [f"http://127.0.0.1:{process.port}/fetch/big?filename=small"] * (FETCHES // CALLERS)
        subprocess.run(["curl", "-s", "--fail", "-o", "/dev/null", *urls], check=True, capture_output=True)

    callers = [threading.Thread(target=fetch) for _ in range(CALLERS)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    asked = access_log.read_text().count("/master/state") - seen
    title(f"{FETCHES:,} fetches of 1 kB, {CALLERS} at once", "state requests", "CPU ms each")
    show("hub", str(asked), f"{(process.cpu() - before):.2f}")
    show("the old proxy, by its source", f"{FETCHES:,}", "")


@contextmanager
def mesos(folder: Path) -> Iterator[Process]:
    """Run what plays Mesos."""
    sandbox = folder / SANDBOX.lstrip("/")
    sandbox.mkdir(parents=True)
    for name, size in {"huge": SIZE, "part": PART}.items():
        with (sandbox / name).open("wb") as file:
            file.truncate(size)
    (sandbox / "small").write_bytes(bytes(1000))
    with nginx(folder, MESOS.format(folder=folder)) as process:
        task = {"id": TASK, "name": "big.deployment", "framework_id": FRAMEWORK, "executor_id": "", "slave_id": AGENT}
        filling = [{**task, "id": f"app.{number}", "labels": [{"key": "x" * 500}]} for number in range(20_000)]
        slave = {
            "id": AGENT,
            "hostname": "127.0.0.1",
            "port": process.port,
            "pid": f"slave(1)@127.0.0.1:{process.port}",
        }
        framework = {"id": FRAMEWORK, "name": "bench", "tasks": [{**task, "state": "TASK_RUNNING"}]}
        state = {"version": "1.0.0", "slaves": [slave], "frameworks": [{**framework, "completed_tasks": filling}]}
        executor = {"id": TASK, "container": "c1", "directory": SANDBOX, "tasks": [{"id": TASK}]}
        agent = {"version": "1.0.0", "frameworks": [{"id": FRAMEWORK, "executors": [executor]}]}
        (folder / "master.json").write_text(json.dumps(state))
        (folder / "agent.json").write_text(json.dumps(agent))
        yield process


@contextmanager
def proxies(folder: Path, upstream: Process) -> Iterator[dict[str, Process]]:
    """Run the peers."""
    flask = folder / "flask"
    flask.mkdir()
    url = f"http://127.0.0.1:{upstream.port}/files/download?path={SANDBOX}/part"
    (flask / "proxy.py").write_text(FLASK.format(url=url))
    port = free_port()
    gunicorn = [sys.executable, "-m", "gunicorn", "-w", "1", "-t", "600", "-b", f"127.0.0.1:{port}", "proxy:app"]
    with nginx(folder / "proxy", PROXY.format(upstream=upstream.port)) as fast:
        slow = _Workers.start(gunicorn, port, flask)
        try:
            slow.await_listening()
            yield {"nginx": fast, "Flask": slow}
        finally:
            slow.stop()


@contextmanager
def nginx(folder: Path, rules: str) -> Iterator[Process]:
    """Run an nginx of one process."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, rules=rules))
    process = _Workers.start(["nginx", "-p", str(folder), "-c", str(config)], port, folder)
    try:
        process.await_listening()
        yield process
    finally:
        process.stop()


class _Workers(Process):
    """A server that may have children, whose processor time counts as its own."""

    def await_listening(self) -> None:
        """Wait until connections are taken."""
        for _ in range(500):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise SystemExit(f"{self.popen.args!r} does not listen")

    def cpu(self) -> float:
        """See `Process`."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        return super().cpu() + sum(_cpu(int(each)) for each in children)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
