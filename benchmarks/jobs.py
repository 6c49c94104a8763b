"""Jobs a second, against a bare loop of ``subprocess.run``; their output, against nginx; what capturing costs.

The supervisor alone is driven by `Runner`, in a process of its own. Through HTTP a job is one POST that starts it and
one GET that waits for its end. The output: one job writes, one follower reads, beside ``cat`` through a pipe into a
file that nginx gives to the same reader.
"""

from __future__ import annotations

import getpass
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from measuring import SERVE, TICKS, Process, alternate, free_port, ratio, room, show, spread, title

ROUNDS = 4
JOBS = 384
CALLERS = 8
MANY = 32
SIZE = 1_000_000_000
HEADERS = {"Authorization": "writer"}

CONFIG = """
[hub]
state = "state"
node = "bench"
workers = ["jobs"]
min_free = "1 MB"
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
services = ["jobs"]
[auth.tokens.writer]
token = "writer"
scopes = ["read", "write"]
[log]
directory = "log"
[jobs]
output_limit = "4 GB"
timeout = "5 min"
"""
NGINX = """
daemon off; worker_processes 1; user {user}; pid {folder}/nginx.pid; error_log {folder}/nginx.error;
events {{}}
http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}
"""
SUPERVISOR = """
import sys, time
from pathlib import Path
from twisted.internet import reactor
from datahub.kit.aio import gather, start
from datahub.processes.runner import Order, Runner
folder, jobs, callers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
async def some(runner, caller):
    for number in range(jobs // callers):
        job = f"{caller}-{number}"
        argv, environ = ["bash", "-c", "true"], {"PATH": "/usr/bin:/bin"}
        order = Order(job, argv, environ, "/", 60, 1, {}, [str(folder / job)], 1 << 20)
        child = await runner.run(order)
        await child.end()
        runner.forget(job)
async def main():
    runner = Runner(folder / "lock", reactor)
    runner.start()
    await runner.ready()
    for _ in range(2):
        begun = time.perf_counter()
        await gather(*(some(runner, caller) for caller in range(callers)))
    print(jobs / (time.perf_counter() - begun))
    await runner.stop()
    reactor.stop()
start(main())
reactor.run()
"""


def bare() -> float:
    """Jobs a second by the shortest Python there is for one."""
    begun = time.perf_counter()
    for _ in range(JOBS):
        subprocess.run(["bash", "-c", "true"], capture_output=True, check=True)
    return JOBS / (time.perf_counter() - begun)


def supervisor(folder: Path, callers: int) -> float:
    """Jobs a second by the supervisor alone."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", SUPERVISOR, str(folder), str(JOBS), str(callers)]
    return float(subprocess.run(command, env=environ, capture_output=True, check=True, text=True).stdout)


def through_http(port: int, callers: int = CALLERS) -> float:
    """Jobs a second from the POST that starts one to the answer that it has stopped."""
    begun = time.perf_counter()
    threads = [threading.Thread(target=call, args=(port, JOBS // callers)) for _ in range(callers)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return JOBS / (time.perf_counter() - begun)


def call(port: int, count: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(count):
        connection.request("POST", "/jobs", json.dumps({"command": "true", "start": True}), HEADERS)
        job = json.loads(connection.getresponse().read())
        connection.request("GET", f"/jobs/{job['id']}?wait=60s", headers=HEADERS)
        seen = json.loads(connection.getresponse().read())
        assert seen["reasonForExit"] == "process finished", seen
    connection.close()


def curl(url: str) -> float:
    """Bytes a second into curl."""
    begun = time.perf_counter()
    command = ["curl", "-sf", "-H", "Authorization: writer", "-o", "/dev/null", "-w", "%{size_download}", url]
    size = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert size == SIZE, size
    return size / (time.perf_counter() - begun)


def start_job(port: int, command: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/jobs", json.dumps({"command": command, "start": True}), HEADERS)
    number: str = json.loads(connection.getresponse().read())["id"]
    return number


def finish_job(port: int, number: str, *, delete: bool = True) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", f"/jobs/{number}?wait=120s", headers=HEADERS)
    assert json.loads(connection.getresponse().read())["reasonForExit"] == "process finished"
    if delete:
        connection.request("DELETE", f"/jobs/{number}", headers=HEADERS)
        connection.getresponse().read()


def followed(port: int, source: Path) -> float:
    """Bytes a second of a job's output, to one follower."""
    number = start_job(port, f"cat {source}")
    speed = curl(f"http://127.0.0.1:{port}/jobs/{number}/output?follow=1")
    finish_job(port, number)
    return speed


def piped(port: int, source: Path) -> float:
    """As much by cat through a pipe into a file, and from nginx to curl, one after the other as one must."""
    begun = time.perf_counter()
    copy = source.with_name("copy")
    with copy.open("wb") as file:
        subprocess.run(f"cat {source} | cat", shell=True, stdout=file, check=True)
    curl(f"http://127.0.0.1:{port}/copy")
    copy.unlink()
    return SIZE / (time.perf_counter() - begun)


def family_cpu() -> float:
    """Give the processor time of the supervisor and its wardens."""
    total = 0
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            if folder.name.isdecimal() and (folder / "comm").read_text().startswith("datahub-"):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
    return total / TICKS


@contextmanager
def hub(folder: Path) -> Iterator[Process]:
    port = free_port()
    (folder / "datahub.toml").write_text(CONFIG.format(port=port))
    process = Process.start([*SERVE, folder / "datahub.toml"], port, folder)
    try:
        process.await_answer()
        yield process
    finally:
        process.stop()


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, user=getpass.getuser()))
    popen = subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-e", folder / "nginx.error"])
    try:
        time.sleep(0.5)
        yield port
    finally:
        popen.terminate()
        popen.wait()


def main() -> None:
    with room() as folder, hub(folder) as process:
        title("bash -c true, jobs a second", "jobs/s", "of subprocess.run")
        through_http(process.port)
        found = alternate(
            ROUNDS,
            {
                "subprocess.run, one by one": bare,
                "the supervisor, one by one": lambda: supervisor(folder, 1),
                f"the supervisor, {CALLERS} at once": lambda: supervisor(folder, CALLERS),
                f"through HTTP, {CALLERS} callers": lambda: through_http(process.port),
                f"through HTTP, {MANY} callers": lambda: through_http(process.port, MANY),
            },
        )
        for name, values in found.items():
            show(name, spread(values, 0), spread(ratio(values, found["subprocess.run, one by one"])))

        source = folder / "source"
        with source.open("wb") as file:
            for _ in range(SIZE // 1_000_000):
                file.write(os.urandom(1_000_000))
        if shutil.which("nginx"):
            with nginx(folder) as port:
                found = alternate(
                    ROUNDS,
                    {
                        "followed through the hub": lambda: followed(process.port, source) / 1e6,
                        "cat, a pipe, then nginx": lambda: piped(port, source) / 1e6,
                    },
                )
            title("output to one reader", "MB/s", "of nginx")
            for name, values in found.items():
                show(name, spread(values, 0), spread(ratio(values, found["cat, a pipe, then nginx"])))

        daemon, family = process.cpu(), family_cpu()
        finish_job(process.port, start_job(process.port, f"cat {source}"))
        title("capturing 1 GB that nobody reads", "processor time, s")
        show("the daemon", f"{process.cpu() - daemon:.3f}")
        show("the supervisor and its wardens", f"{family_cpu() - family:.3f}")


if __name__ == "__main__":
    main()
