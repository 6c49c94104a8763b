"""Many small products delivered and verified, from the submission to the last SUCCESS, against a shell's loop."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from load import deliver_all, submission
from measuring import Hub, Process, alternate, ratio, room, show, spread, title

COUNT = 1000
SIZE = 4096
ROUNDS = 2
CLIENTS = 8
PATIENCE = 120.0

# What a person would do who wants to know that each copy is right and on the disk.
SHELL = """
set -eu
for file in *; do
    cp "$file" "$1/$file"
    sync "$1/$file"
    [ "$(sha256sum < "$file")" = "$(sha256sum < "$1/$file")" ]
done
"""
LEFT = "SELECT count(*), count(*) FILTER (WHERE status = 'ERROR') FROM transfer WHERE status != 'SUCCESS'"


def main(rounds: int = ROUNDS, count: int = COUNT) -> None:
    """Measure and print the table."""
    with room() as folder:
        hub = Hub(folder)
        for number in range(count):
            (hub.archive / f"product-{number:05}").write_bytes(os.urandom(SIZE))
        costs: list[float] = []
        with hub.running() as process:
            measures = {"shell": lambda: count / in_shell(hub), "hub": lambda: count / by_hub(hub, process, costs)}
            found = alternate(rounds, measures)
    title(f"{count} products of {SIZE} bytes, delivered and verified", "a second", "of the shell", "CPU µs each")
    show("cp, sync, sha256sum of both", spread(found["shell"], 0), "1")
    ratios, each = ratio(found["hub"], found["shell"]), [cost / count * 1e6 for cost in costs]
    show("hub, submission to last SUCCESS", spread(found["hub"], 0), spread(ratios), spread(each, 0))


def in_shell(hub: Hub) -> float:
    """Give the seconds of the loop."""
    target = fresh_folder(hub)
    begun = time.perf_counter()
    subprocess.run(["sh", "-c", SHELL, "sh", target], cwd=hub.archive, check=True)
    return time.perf_counter() - begun


def by_hub(hub: Hub, process: Process, costs: list[float]) -> float:
    """Give the seconds of the hub; the processor time goes into ``costs``."""
    destination = fresh_folder(hub).as_uri()
    requests = [submission(each.name, destination) for each in sorted(hub.archive.iterdir())]
    before, begun = process.cpu(), time.perf_counter()
    deliver_all(process.port, CLIENTS, requests)
    await_success(hub)
    took = time.perf_counter() - begun
    costs.append(process.cpu() - before)
    return took


def fresh_folder(hub: Hub) -> Path:
    """Make a folder among the deliveries."""
    folder = hub.deliveries / uuid4().hex
    folder.mkdir()
    return folder


def await_success(hub: Hub) -> None:
    """Wait until all transfers have succeeded; asked of the database, so that the hub is not kept from its work."""
    until = time.monotonic() + PATIENCE
    with closing(sqlite3.connect(f"file:{hub.database}?mode=ro", uri=True)) as connection:
        while (found := connection.execute(LEFT).fetchone()) != (0, 0):
            if found[1] or time.monotonic() > until:
                sys.exit(f"{found[0]} transfers have not succeeded, {found[1]} have failed")
            time.sleep(0.02)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
