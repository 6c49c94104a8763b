"""A large product and many small files to a GridFTP server, verified, against plain ``globus-url-copy -fast -pp``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from load import deliver_all, submission
from measuring import Hub, alternate, ratio, room, show, spread, title
from small_products import await_success

from tests.gridftp import Authority, GridServer

LARGE = 1024**3
FILES, SIZE = 1000, 100 * 1024
SINGLES = 200
ROUNDS = 2
KEYS = """
[transfers.mover_options.gsiftp]
proxy = "{proxy}"
ca = "{ca}"
"""


def main(rounds: int = ROUNDS, large: int = LARGE, files: int = FILES) -> None:
    """Measure and print the tables."""
    with room() as folder:
        server = GridServer(Authority(folder / "authority"))
        server.start()
        try:
            measure(folder, server, rounds, large, files)
        finally:
            server.kill()


def measure(folder: Path, server: GridServer, rounds: int, large: int, files: int) -> None:
    """Fill an archive and deliver it by both."""
    hub = Hub(folder)
    fill(hub.archive, large, files)
    proxy = server.authority.proxy("alice")
    text = hub.config.read_text().replace("[transfers.movers]", '[transfers.movers]\ngsiftp = "gfal:"')
    hub.config.write_text(text + KEYS.format(proxy=proxy, ca=server.authority.folder))
    environ = {**os.environ, "X509_USER_PROXY": str(proxy), "X509_CERT_DIR": str(server.authority.folder)}

    def plain(product: str) -> float:
        target = hub.deliveries / uuid4().hex
        source = (hub.archive / product).as_uri()
        both = [source + "/", server.url(target) + "/"] if product != "large" else [source, server.url(target)]
        begun = time.perf_counter()
        subprocess.run(["globus-url-copy", "-r", "-cd", "-fast", "-pp", *both], env=environ, check=True)
        return time.perf_counter() - begun

    def by_hub(port: int, *products: str) -> float:
        target = server.url(hub.deliveries / uuid4().hex)
        begun = time.perf_counter()
        deliver_all(port, 4, [submission(each, target) for each in products])
        await_success(hub)
        return time.perf_counter() - begun

    singles = [f"small/{number:04}" for number in range(min(SINGLES, files))]
    with hub.running() as process:
        by_hub(process.port, "small/0000")
        measures = {
            ("large", "plain"): lambda: plain("large"),
            ("large", "hub"): lambda: by_hub(process.port, "large"),
            ("small", "plain"): lambda: plain("small"),
            ("small", "hub"): lambda: by_hub(process.port, "small"),
            ("single", "hub"): lambda: by_hub(process.port, *singles),
        }
        found = alternate(rounds, measures)
    title(f"GridFTP on loopback: {large} bytes, and a folder of {files} x {SIZE}", "seconds", "of plain")
    for product in ("large", "small"):
        show(f"{product}: globus-url-copy -fast -pp", spread(found[product, "plain"]), "1")
        told = spread(ratio(found[product, "hub"], found[product, "plain"]))
        show(f"{product}: hub, verified, submission to SUCCESS", spread(found[product, "hub"]), told)
    rate = [len(singles) / each for each in found["single", "hub"]]
    show(f"{len(singles)} transfers of one file: a second", spread(rate), "")


def fill(archive: Path, large: int, files: int) -> None:
    """Make a large product, and a folder of small ones."""
    with (archive / "large").open("wb") as out:
        for _ in range(large // 2**20):
            out.write(os.urandom(2**20))
    (archive / "small").mkdir()
    for number in range(files):
        (archive / "small" / f"{number:04}").write_bytes(os.urandom(SIZE))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
