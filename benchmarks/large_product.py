"""One large product, delivered and verified, against cp and sha256sum; and the memory that it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from load import deliver_all, submission
from measuring import Hub, Process, alternate, ratio, room, show, spread, title
from small_products import await_success, fresh_folder

GIB = 1024**3
ROUNDS = 2

# The first is the aim's peer; the second does what the hub does: the copy is on disk, and both sides are read.
SHELLS = {
    "cp, sha256sum": 'cp "$1" "$2" && sha256sum "$2/$1"',
    "cp, sync, sha256sum of both": 'cp "$1" "$2" && sync "$2/$1" && sha256sum "$1" "$2/$1"',
}


def main(rounds: int = ROUNDS, sparse: int = 0) -> None:
    """Measure and print the tables; ``sparse`` GiB of zeros are delivered as well, which takes a busy disk a minute."""
    with room() as folder:
        hub = Hub(folder)
        product = hub.archive / "product"
        fill(product)
        with hub.running() as process:
            idle = process.memory()
            process.forget_peak()
            measures = {name: lambda script=script: in_shell(hub, product, script) for name, script in SHELLS.items()}
            found = alternate(rounds, {"hub": lambda: by_hub(hub, process, product), **measures})
            peak = process.memory("VmHWM")
            memory = {"idle": idle, "peak, as above": peak}
            if sparse:
                product.unlink()
                memory[f"peak, {sparse} GiB sparse"] = sparse_peak(hub, process, sparse)
    speeds = {name: [GIB / seconds / 1e6 for seconds in each] for name, each in found.items()}
    title("one product of 1 GiB, delivered and verified", "MB a second", "hub is, of it")
    for name, each in speeds.items():
        show(name, spread(each, 0), spread(ratio(speeds["hub"], each)))
    title("memory of the daemon", "MiB", "of idle")
    for name, mib in memory.items():
        show(name, f"{mib:.0f}", f"{mib / idle:.2f}")


def fill(path: Path) -> None:
    """Write random bytes."""
    with path.open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(GIB // 64))
        os.fsync(file.fileno())


def in_shell(hub: Hub, product: Path, script: str) -> float:
    """Give the seconds that ``script`` takes."""
    target = fresh_folder(hub)
    begun = time.perf_counter()
    subprocess.run(["sh", "-c", script, "sh", product.name, target], cwd=hub.archive, check=True, capture_output=True)
    return finished(begun, target / product.name)


def by_hub(hub: Hub, process: Process, product: Path) -> float:
    """Give the seconds from the submission to SUCCESS."""
    target = fresh_folder(hub)
    begun = time.perf_counter()
    deliver_all(process.port, 1, [submission(product.name, target.as_uri())])
    await_success(hub)
    return finished(begun, target / product.name)


def finished(begun: float, copy: Path) -> float:
    """Give the seconds since ``begun``, and leave the disk quiet for the next one."""
    took = time.perf_counter() - begun
    copy.unlink()
    os.sync()
    return took


def sparse_peak(hub: Hub, process: Process, size: int) -> float:
    """Give the peak of memory while a product of zeros is delivered, in MiB."""
    product = hub.archive / "sparse"
    product.touch()
    os.truncate(product, size * GIB)
    process.forget_peak()
    by_hub(hub, process, product)
    return process.memory("VmHWM")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
