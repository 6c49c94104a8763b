"""A cart of 1 GiB in 1,000 files against nginx sending the same bytes as one finished tar, plain and over TLS.

And how long the first byte of a cart of 10,000 files takes, from the request for the cart on and for the download
alone; what a cart of 100,000 files costs; and how long others wait while the request for such a one is read.
nginx, curl and openssl must be installed.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from measuring import Hub, Process, alternate, free_port, ratio, room, show, spread, title

ROUNDS = 5
MIB = 2**20
FILES = 1000
MANY = 10_000
NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; default_type application/octet-stream;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{port}; listen 127.0.0.1:{secure} ssl; root {folder};
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    location = /ready {{ return 200; }}
  }}
}}
"""
CERTIFICATE = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"


def ask(port: int, method: str, path: str, body: bytes = b"") -> bytes:
    """Send a request to the hub and read the answer, which must be a good one."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, body)
    answer = connection.getresponse()
    told = answer.read()
    if answer.status >= 300:
        raise SystemExit(f"{method} {path}: {answer.status} {told[:500]!r}")
    connection.close()
    return told


def make(port: int, uid: str, count: int) -> float:
    """Ask for a cart of the first ``count`` files, wait until it is ready, and give the seconds that took."""
    body = json.dumps({"fileids": [{"id": f"f{n}", "path": f"{n % 100}/{n}"} for n in range(count)]}).encode()
    begun = time.perf_counter()
    ask(port, "POST", f"/{uid}", body)
    record = json.loads(ask(port, "GET", f"/carts/{uid}?wait=100s&limit=0"))
    if record["status"] != "ready":
        raise SystemExit(str(record))
    return time.perf_counter() - begun


def download(url: str) -> float:
    """Download by curl, to nowhere; MB a second."""
    told = subprocess.run(
        ["curl", "-sSk", "--http1.1", "-o", "/dev/null", "-w", "%{speed_download}", url],
        capture_output=True,
        check=True,
    )
    return float(told.stdout) / 1e6


def first_byte(url: str) -> float:
    """Give the seconds until the first byte of the body."""
    told = subprocess.run(
        ["curl", "-sS", "-r", "0-1023", "-o", "/dev/null", "-w", "%{time_starttransfer}", url],
        capture_output=True,
        check=True,
    )
    return float(told.stdout)


@contextmanager
def nginx(folder: Path) -> Iterator[tuple[Process, int]]:
    """Run nginx in ``folder``; the process, and its port for TLS."""
    port, secure = free_port(), free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, secure=secure))
    process = Process.start(["nginx", "-c", folder / "nginx.conf"], port, folder)
    try:
        process.await_answer()
        yield process, secure
    finally:
        process.stop()


def held_up(port: int, uid: str, count: int) -> list[float]:
    """Ask for a cart while somebody else asks for the hub's health every 10 ms; how long each of his answers took."""
    entry = '{{"id":"f{0}","path":"{1}/a folder/{0}","hashtype":"sha256","hashsum":"{0:064x}"}}'
    body = ('{"fileids":[' + ",".join(entry.format(n, n % 100) for n in range(count)) + "]}").encode()
    taken: list[float] = []
    done = threading.Event()

    def look() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        while not done.is_set():
            begun = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            taken.append(time.perf_counter() - begun)
            time.sleep(max(0.0, 0.01 - taken[-1]))

    looking = threading.Thread(target=look)
    looking.start()
    ask(port, "POST", f"/{uid}", body)
    done.set()
    looking.join()
    ask(port, "GET", f"/carts/{uid}?wait=100s&limit=0")
    return sorted(taken)


def compare(hub: Process, peer: Process, urls: dict[str, str]) -> None:
    """Throughput and processor time of both, in turn."""
    cost: dict[str, list[float]] = {name: [] for name in urls}
    whose = {"hub": hub, "nginx": peer}

    def measure(name: str) -> float:
        before = whose[name].cpu()
        speed = download(urls[name])
        cost[name].append(whose[name].cpu() - before)
        return speed

    found = alternate(ROUNDS, {name: (lambda name=name: measure(name)) for name in urls})  # type: ignore[misc]
    for name, speeds in found.items():
        show(name, spread(speeds, 0), spread(cost[name]))
    show("hub / nginx", spread(ratio(found["hub"], found["nginx"])))


def main() -> None:
    """Measure and print."""
    with room() as folder:
        subprocess.run(CERTIFICATE.split(), cwd=folder, check=True, capture_output=True)
        hub = Hub(folder / "hub", workers=("carts",))
        secure = free_port()
        with hub.config.open("a") as config:
            config.write(f'[[listen]]\nendpoint = "tcp:{secure}:interface=127.0.0.1"\n[listen.tls]\n')
            config.write(f'certificate = "{folder}/cert.pem"\nkey = "{folder}/key.pem"\n')
        for number in range(FILES):
            (hub.archive / f"f{number}").write_bytes(number.to_bytes(2, "big") * (MIB // 2 + number % 7 * 100))
        with hub.running() as process, nginx(folder) as (peer, peer_secure):
            make(hub.port, "big", FILES)
            path = "carts/big/big.tar"
            subprocess.run(
                ["curl", "-sSf", "-o", folder / "big.tar", f"http://127.0.0.1:{hub.port}/{path}"], check=True
            )
            title(f"a cart of {FILES} files, 1 GiB, plain", "MB/s", "CPU s")
            ours, theirs = f"127.0.0.1:{hub.port}/{path}", f"127.0.0.1:{peer.port}/big.tar"
            compare(process, peer, {"hub": f"http://{ours}", "nginx": f"http://{theirs}"})
            title("the same over TLS", "MB/s", "CPU s")
            ours, theirs = f"127.0.0.1:{secure}/{path}", f"127.0.0.1:{peer_secure}/big.tar"
            compare(process, peer, {"hub": f"https://{ours}", "nginx": f"https://{theirs}"})
            show("memory of the hub, MiB", f"{process.memory():.0f}")
        for number in range(FILES, 10 * MANY):
            (hub.archive / f"f{number}").write_bytes(b"%d" % number)
        with hub.running() as process:
            title("carts of many files", "seconds")
            for count in (3, 1000, MANY, 10 * MANY):
                show(f"{count}: POST to ready", f"{make(hub.port, f'c{count}', count):.3f}")
                url = f"http://127.0.0.1:{hub.port}/carts/c{count}"
                show(f"{count}: first byte", f"{first_byte(f'{url}/a.tar'):.3f}")
                show(f"{count}: first byte, laid out before", f"{first_byte(f'{url}/a.tar'):.3f}")
            title("/health while a body of 100,000 files is read", "median ms", "99% ms", "longest ms")
            for number in range(ROUNDS):
                taken = [1000 * each for each in held_up(hub.port, f"held{number}", 10 * MANY)]
                cells = (taken[len(taken) // 2], taken[len(taken) * 99 // 100], taken[-1])
                show(f"round {number + 1}", *(f"{each:.0f}" for each in cells))
            show("memory of the hub, MiB", f"{process.memory():.0f}")


if __name__ == "__main__":
    main()
