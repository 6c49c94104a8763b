"""From exec to the first answer, with a fresh state and with an existing one, against Twisted's own web server."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from uuid import uuid4

from measuring import Hub, Process, alternate, free_port, ratio, room, show, spread, title

ROUNDS = 3
IDLE = 1.0
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile=", "web")


def main(rounds: int = ROUNDS) -> None:
    """Measure and print the table."""
    with room() as folder:
        memory: dict[str, list[float]] = {"peer": [], "fresh": [], "existing": []}
        existing = Hub(folder / "existing")
        until_ready(existing.start(), "/ready", [])
        found = alternate(
            rounds,
            {
                "peer": lambda: until_ready(twisted_web(folder), "/", memory["peer"]),
                "fresh": lambda: until_ready(Hub(folder / uuid4().hex).start(), "/ready", memory["fresh"]),
                "existing": lambda: until_ready(existing.start(), "/ready", memory["existing"]),
            },
        )
    title("from exec to the first answer", "seconds", "of twistd web", "MiB when idle")
    names = {"peer": "twistd web", "fresh": "hub, fresh state", "existing": "hub, existing state"}
    for key, name in names.items():
        show(name, spread(found[key]), spread(ratio(found[key], found["peer"])), spread(memory[key], 0))


def twisted_web(folder: Path) -> Process:
    """Start Twisted's server of files."""
    port = free_port()
    return Process.start([*TWISTD, "--path", folder, "--listen", f"tcp:{port}:interface=127.0.0.1"], port, folder)


def until_ready(process: Process, path: str, memory: list[float]) -> float:
    """Give the seconds from exec to the answer; the idle memory goes into ``memory``."""
    process.await_answer(path)
    took = time.perf_counter() - process.begun
    time.sleep(IDLE)
    memory.append(process.memory())
    process.stop()
    return took


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
