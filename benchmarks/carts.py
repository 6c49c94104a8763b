"""Carts beside their peers. ``python benchmarks/carts.py PART…`` measures the parts named; all of them if none is.

- ``nginx``: a cart of 1 GiB in 1,000 files beside nginx sending the same bytes as one finished tar, plain and over TLS;
- ``cold``: the same when the kernel has forgotten all files, beside nginx and GNU tar: what the disk makes of it;
- ``many``: what carts of up to 100,000 files cost, to ready and to the first byte, and how long others wait while such
  a request is read;
- ``slow``: 200 callers who download at 20 kB/s for two minutes: memory, and how quick the others are served;
- ``far``: a cart of 10,000 files from the archive interface: how long others wait meanwhile, and memory;
- ``cartd``: from POST to downloaded, 3 and 1,000 small files, beside Pacifica's Cartd at the same archive interface.

curl, nginx, openssl and GNU tar must be installed; ``cold`` needs root; for Cartd see `pacifica`.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from itertools import count as counted
from pathlib import Path
from statistics import median, quantiles

from measuring import Hub, Process, alternate, free_port, ratio, room, show, spread, title
from pacifica import Pacifica, pacifica
from slow_readers import slow_readers

ROUNDS = 5
COLD_ROUNDS = 3
MIB = 2**20
FILES = 1000
MANY = 10_000
CALLERS, RATE = 200, 20_000
SECONDS = 120.0
ALONE = 20.0
PAUSE = 0.01
CARTD_ROUNDS = {3: 5, 1000: 3}
NAMES = {"hub": "hub", "cartd": "cartd", "archive": "the archive's part: its requests, one by one"}
SMALL = 1000
PATIENCE = 900.0
FORGET = Path("/proc/sys/vm/drop_caches")
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


def request(port: int, method: str, path: str, body: bytes = b"") -> tuple[HTTPResponse, bytes]:
    """Send a request on a connection of its own and read the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    told = answer.read()
    connection.close()
    return answer, told


def ask(port: int, method: str, path: str, body: bytes = b"") -> bytes:
    """Send a request and read the answer, which must be a good one."""
    answer, told = request(port, method, path, body)
    if answer.status >= 300:
        raise SystemExit(f"{method} {path}: {answer.status} {told[:500]!r}")
    return told


def make(port: int, uid: str, count: int, patience: float = 100.0) -> float:
    """Ask for a cart of the first ``count`` files, wait until it is ready, and give the seconds that took."""
    body = json.dumps({"fileids": [{"id": f"f{n}", "path": f"{n % 100}/{n}"} for n in range(count)]}).encode()
    begun = time.perf_counter()
    ask(port, "POST", f"/{uid}", body)
    while True:
        record = json.loads(ask(port, "GET", f"/carts/{uid}?wait=100s&limit=0"))
        took = time.perf_counter() - begun
        if record["status"] == "ready":
            return took
        if record["status"] == "error" or took > patience:
            raise SystemExit(str(record))


def download(url: str) -> float:
    """Download by curl, to nowhere; MB a second."""
    told = subprocess.run(
        ["curl", "-sSfk", "--http1.1", "-o", "/dev/null", "-w", "%{speed_download}", url],
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


def large(folder: Path) -> tuple[Hub, int]:
    """A hub in ``folder`` with 1 GiB in files in its archive, and its port for TLS; ``folder`` has the certificate."""
    subprocess.run(CERTIFICATE.split(), cwd=folder, check=True, capture_output=True)
    hub, secure = Hub(folder / "hub", workers=("carts",)), free_port()
    with hub.config.open("a") as config:
        config.write(f'[[listen]]\nendpoint = "tcp:{secure}:interface=127.0.0.1"\n[listen.tls]\n')
        config.write(f'certificate = "{folder}/cert.pem"\nkey = "{folder}/key.pem"\n')
    for number in range(FILES):
        (hub.archive / f"f{number}").write_bytes(number.to_bytes(2, "big") * (MIB // 2 + number % 7 * 100))
    return hub, secure


def make_large(hub: Hub, folder: Path) -> None:
    """Make a cart of 1 GiB, and put its tar where nginx finds it."""
    make(hub.port, "big", FILES)
    while request(hub.port, "GET", "/carts/big/manifest")[0].status == 503:
        time.sleep(0.1)  # until its digests are computed, which costs a processor
    url = f"http://127.0.0.1:{hub.port}/carts/big/big.tar"
    subprocess.run(["curl", "-sSf", "-o", folder / "big.tar", url], check=True)


def beside_nginx(folder: Path) -> None:
    """Throughput and processor time, plain and over TLS."""
    hub, secure = large(folder)
    with hub.running() as process, nginx(folder) as (peer, peer_secure):
        make_large(hub, folder)
        path = "carts/big/big.tar"
        title(f"a cart of {FILES} files, 1 GiB, plain", "MB/s", "CPU s")
        ours, theirs = f"127.0.0.1:{hub.port}/{path}", f"127.0.0.1:{peer.port}/big.tar"
        compare(process, peer, {"hub": f"http://{ours}", "nginx": f"http://{theirs}"})
        title("the same over TLS", "MB/s", "CPU s")
        ours, theirs = f"127.0.0.1:{secure}/{path}", f"127.0.0.1:{peer_secure}/big.tar"
        compare(process, peer, {"hub": f"https://{ours}", "nginx": f"https://{theirs}"})
        show("memory of the hub, MiB", f"{process.memory():.0f}")


def compare(hub: Process, peer: Process, urls: Mapping[str, str]) -> None:
    """Throughput and processor time of both, in turn."""
    cost: dict[str, list[float]] = {name: [] for name in urls}
    whose = {"hub": hub, "nginx": peer}

    def measure(name: str) -> float:
        before = whose[name].cpu()
        speed = download(urls[name])
        cost[name].append(whose[name].cpu() - before)
        return speed

    found = alternate(ROUNDS, {name: partial(measure, name) for name in urls})
    for name, speeds in found.items():
        show(name, spread(speeds, 0), spread(cost[name]))
    show("hub / nginx", spread(ratio(found["hub"], found["nginx"])), spread(ratio(cost["hub"], cost["nginx"])))


def cold(folder: Path) -> None:
    """Throughput when all has to come from the disk."""
    hub, _ = large(folder)
    with hub.running(), nginx(folder) as (peer, _):
        make_large(hub, folder)
        urls = {
            "hub, 1,000 files": f"http://127.0.0.1:{hub.port}/carts/big/big.tar",
            "nginx, one file": f"http://127.0.0.1:{peer.port}/big.tar",
        }
        measures = {name: partial(download, url) for name, url in urls.items()}
        measures["GNU tar, 1,000 files"] = partial(pack, hub.archive)
        found = alternate(COLD_ROUNDS, {name: partial(forgotten, each) for name, each in measures.items()})
    title(f"a cart of {FILES} files, 1 GiB, of which nothing is in memory", "MB/s", "of nginx")
    for name, speeds in found.items():
        show(name, spread(speeds, 0), spread(ratio(speeds, found["nginx, one file"])))


def forgotten(measure: Callable[[], float]) -> float:
    """Measure when the kernel has nothing of any file in memory."""
    subprocess.run(["sync"], check=True)
    try:
        FORGET.write_text("3")
    except OSError as error:
        raise SystemExit(f"the kernel can't be told to forget its files: {error}") from error
    return measure()


def pack(folder: Path) -> float:
    """Pack ``folder`` by GNU tar, to nowhere (into /dev/null itself it would read nothing); MB a second."""
    begun = time.perf_counter()
    with subprocess.Popen(["tar", "-cf", "-", "-C", folder, "."], stdout=subprocess.PIPE) as packing:
        subprocess.run(["cat"], stdin=packing.stdout, stdout=subprocess.DEVNULL, check=True)
    took = time.perf_counter() - begun
    return sum(each.stat().st_size for each in folder.iterdir()) / took / 1e6


def held_up(port: int, uid: str, count: int) -> list[float]:
    """Ask for a cart while somebody else asks for the hub's health every 10 ms; how long each of his answers took."""
    entry = '{{"id":"f{0}","path":"{1}/a folder/{0}","hashtype":"sha256","hashsum":"{0:064x}"}}'
    body = ('{"fileids":[' + ",".join(entry.format(n, n % 100) for n in range(count)) + "]}").encode()
    taken: list[float] = []
    done = threading.Event()
    looking = threading.Thread(target=lambda: taken.extend(health(port, done)))
    looking.start()
    ask(port, "POST", f"/{uid}", body)
    done.set()
    looking.join()
    ask(port, "GET", f"/carts/{uid}?wait=100s&limit=0")
    return sorted(taken)


def health(port: int, over: threading.Event) -> list[float]:
    """Ask for the hub's health every 10 ms until it is ``over``; how many seconds each answer took."""
    taken: list[float] = []
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    while not over.is_set():
        begun = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        taken.append(time.perf_counter() - begun)
        time.sleep(max(0.0, PAUSE - taken[-1]))
    return taken


def many(folder: Path) -> None:
    """What many files cost."""
    hub = Hub(folder / "hub", workers=("carts",))
    for number in range(10 * MANY):
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


def slow(folder: Path) -> None:
    """What slow callers cost the hub, and the others."""
    hub, secure = large(folder)
    get = b"GET /carts/big/big.tar HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    for kind, port in (("plain", hub.port), ("over TLS", secure)):
        with hub.running() as process:
            if kind == "plain":
                make_large(hub, folder)
            title(
                f"{CALLERS} callers who download at {RATE // 1000} kB/s for {SECONDS:g} s, {kind}",
                "/health: median, 99 % ms",
                "a cart: median, 99 % ms",
                "one quick download, MB/s",
            )
            watch(hub.port, ALONE)
            show("without them", *watch(hub.port, ALONE))
            before = process.memory()
            with slow_readers(port, get, CALLERS, RATE, tls=port == secure) as ended:
                began, cpu = process.memory(), process.cpu()
                time.sleep(ALONE)
                cpu = process.cpu() - cpu
                memory = []
                for _ in range(4):
                    cells = watch(hub.port, (SECONDS - ALONE) / 4)
                    memory.append(process.memory())
                    show("with them", *cells)
                show("the slow ones", ended())
            shown = ", ".join(f"{each:.0f}" for each in memory)
            show("memory of the hub, MiB", f"{before:.0f}", f"{began:.0f} with all of them", f"then {shown}")
            show("processor for them alone", f"{cpu / ALONE:.1%}")


def watch(port: int, seconds: float) -> list[str]:
    """Cells: how quick small requests are answered for ``seconds``, while one caller downloads as fast as it can."""
    speeds: list[float] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            speeds.append(download(f"http://127.0.0.1:{port}/carts/big/big.tar"))

    quick = threading.Thread(target=go_on)
    quick.start()
    times: dict[str, list[float]] = {"/health": [], "/carts/big?limit=0": []}
    line = HTTPConnection("127.0.0.1", port, timeout=60)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for path, taken in times.items():
            begun = time.perf_counter()
            line.request("GET", path)
            line.getresponse().read()
            taken.append((time.perf_counter() - begun) * 1000)
            time.sleep(PAUSE)
    line.close()
    over.set()
    quick.join()
    return [*(f"{median(each):.1f}, {quantiles(each, n=100)[98]:.1f}" for each in times.values()), spread(speeds, 0)]


def far(folder: Path) -> None:
    """What many files cost that have to be fetched, and how quick others are served meanwhile."""
    with pacifica(folder / "pacifica") as peer:
        for number in range(MANY):
            (peer.files / f"f{number}").write_bytes(b"%d" % number)
        hub = Hub(folder / "hub", workers=("carts",), more={"archive": {"url": peer.archive}})
        with hub.running() as process:
            title(f"a cart of {MANY} files from the archive interface", "seconds", "CPU s")
            make(hub.port, "first", 3)
            memory, cpu, over = process.memory(), process.cpu(), threading.Event()
            taken: list[float] = []
            looking = threading.Thread(target=lambda: taken.extend(health(hub.port, over)))
            looking.start()
            took = make(hub.port, "many", MANY, PATIENCE)
            over.set()
            looking.join()
            show("POST to ready", f"{took:.1f}", f"{process.cpu() - cpu:.1f}")
            show("the archive's part: its requests, one by one", f"{ask_alone(peer, SMALL) * MANY / SMALL:.1f}")
            cells = (median(taken), quantiles(taken, n=100)[98], max(taken))
            show("/health: median, 99 %, longest, ms", *(f"{1000 * each:.1f}" for each in cells))
            show("memory of the hub, MiB: before, after", f"{memory:.0f}", f"{process.memory():.0f}")


def beside_cartd(folder: Path) -> None:
    """From POST to downloaded, of files that neither has seen before."""
    with pacifica(folder / "pacifica") as peer:
        hub = Hub(folder / "hub", workers=("carts",), more={"archive": {"url": peer.archive}})
        with hub.running():
            numbers = {"hub": counted(), "cartd": counted()}
            ports = {"hub": hub.port, "cartd": peer.port}
            alternate(1, {name: partial(deliver, peer, port, numbers[name], 3) for name, port in ports.items()})
            for count, rounds in CARTD_ROUNDS.items():
                measures = {name: partial(deliver, peer, port, numbers[name], count) for name, port in ports.items()}
                measures["archive"] = partial(ask_alone, peer, count)
                found = alternate(rounds, measures)
                title(f"{count} files of {SMALL} bytes, POST to downloaded", "seconds")
                for name, told in NAMES.items():
                    show(told, spread(found[name], 3))
                show("cartd / hub (aim: 10)", spread(ratio(found["cartd"], found["hub"]), 1))


def deliver(peer: Pacifica, port: int, numbers: Iterator[int], count: int) -> float:
    """Have the next cart of ``count`` files made and download it, which must be whole; seconds."""
    uid = f"c{next(numbers)}"
    contents = {f"{uid}-{n}": f"{uid} {n} ".encode().ljust(SMALL, b".") for n in range(count)}
    for name, content in contents.items():
        (peer.files / name).write_bytes(content)
    files = [
        {"id": name, "path": f"{n % 100}/{name}", "hashtype": "sha256", "hashsum": hashlib.sha256(content).hexdigest()}
        for n, (name, content) in enumerate(contents.items())
    ]
    body = json.dumps({"fileids": files}).encode()
    begun = time.perf_counter()
    ask(port, "POST", f"/{uid}", body)
    await_ready(port, uid)
    data = ask(port, "GET", f"/{uid}?filename=a.tar")
    took = time.perf_counter() - begun
    require_whole(data, contents)
    ask(port, "DELETE", f"/{uid}")
    return took


def ask_alone(peer: Pacifica, count: int) -> float:
    """Ask the archive interface for files as both must: stage, look, fetch; seconds."""
    names = [f"alone-{n}" for n in range(count)]
    for name in names:
        (peer.files / name).write_bytes(bytes(SMALL))
    port = int(peer.archive.rstrip("/").rpartition(":")[2])
    begun = time.perf_counter()
    for name in names:
        for method in ("POST", "HEAD", "GET"):
            ask(port, method, f"/{name}")
    return time.perf_counter() - begun


def await_ready(port: int, uid: str) -> None:
    """Ask until the cart is ready, as its clients do; more rarely the longer it takes, at most ten times a second."""
    begun = time.monotonic()
    while True:
        answer, _ = request(port, "HEAD", f"/{uid}")
        status = answer.headers["X-Pacifica-Status"]
        if status == "ready":
            return
        waited = time.monotonic() - begun
        if answer.status != 204 or waited > PATIENCE:
            raise SystemExit(f"{uid} is {status} after {waited:.0f} s: {answer.headers['X-Pacifica-Message']}")
        time.sleep(min(0.1, max(0.005, waited / 20)))


def require_whole(data: bytes, contents: Mapping[str, bytes]) -> None:
    """End the benchmark if the tar does not have these contents: what was not done was not quick."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {each.name.rpartition("/")[2]: tar.extractfile(each) for each in tar.getmembers() if each.isfile()}
        if {name: file.read() for name, file in found.items() if file} != contents:
            raise SystemExit("the tar has not what the cart was asked for")


PARTS = {"nginx": beside_nginx, "cold": cold, "many": many, "slow": slow, "far": far, "cartd": beside_cartd}


def main(parts: Sequence[str]) -> None:
    """Measure and print; ends with an error that names the parts that could not be measured, if any."""
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    failed = []
    for part in parts or PARTS:
        try:
            with room() as folder:
                PARTS[part](folder)
        except SystemExit as end:
            if not isinstance(end.code, str):
                raise  # somebody ended the whole
            failed.append(f"{part} was not measured: {end}")
            print(failed[-1], flush=True)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main(sys.argv[1:])
