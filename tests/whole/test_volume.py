"""Much at once from the real daemon: more than 8 GiB, which ustar has no digits for; many carts, files and callers."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

import pytest

from datahub.carts.tar import END, header, padding
from tests.whole.daemon import Daemon, until
from tests.whole.site import Site

MIB = 1024 * 1024
EIGHT_GIB = 8 * 1024 * MIB
HUGE = EIGHT_GIB + 12_345
STEP = 64 * 1024
TOP = "volume"
SIZE_COLUMN = {"tar": 2, "bsdtar": 4}
CARTS, POSTING, FILES = 1000, 20, 20
MANY = 100_000
CALLERS, STEP_OF_CALLER, SECONDS = 200, 2_000, 30.0
ENOUGH = 300 * MIB
"""What the hub may take in memory: generous, but less than it would be if any of this piled up."""
PATIENCE = 10.0
"""Seconds within which a hub that is busy must say how it is."""


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where to read a hole takes no room: of a disk, all that is read would be kept in memory."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="datahub-test-", dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def members(archive: Path) -> dict[str, Path]:
    """The files of a cart by their paths in it: a small one, one with holes beyond 8 GiB, and one that lies behind."""
    chance = random.Random(8)
    (archive / "before").write_bytes(chance.randbytes(100_001))
    with (archive / "huge").open("wb") as file:
        for place in (0, 2**32 - 3, EIGHT_GIB - 4, HUGE - 1000):
            file.seek(place)
            file.write(chance.randbytes(1000))
    (archive / "after").write_bytes(chance.randbytes(3 * MIB + 1))
    names = {"before": "before", "huge": "huge", "after": f"ü/{'behind/' * 40}after"}
    return {path: archive / name for name, path in names.items()}


def laid_out(members: Mapping[str, Path]) -> Iterator[bytes]:
    """The tar in pieces, from names, sizes, times and the files as they lie in the archive."""
    length = 0
    for path, file in members.items():
        told = file.stat()
        head, rest = header(f"{TOP}/{path}", told.st_size, told.st_mtime_ns), padding(told.st_size)
        yield head
        with file.open("rb") as opened:
            yield from iter(partial(opened.read, STEP), b"")
        yield rest
        length += len(head) + told.st_size + len(rest)
    yield END + bytes(-(length + len(END)) % tarfile.RECORDSIZE)


def check_download(url: str, pieces: Iterable[bytes], tar: Path) -> None:
    """Curl gets ``pieces`` and nothing else; they are kept in ``tar``, with holes in place of zeros."""
    zeros = bytes(STEP)
    with subprocess.Popen(["curl", "-sSf", "-m", "150", url], stdout=subprocess.PIPE) as curl, tar.open("wb") as file:
        assert curl.stdout
        fcntl.fcntl(curl.stdout, fcntl.F_SETPIPE_SZ, MIB)
        for piece in pieces:
            assert curl.stdout.read(len(piece)) == piece, f"other bytes from {file.tell()} on"
            if piece == zeros:
                file.seek(STEP, os.SEEK_CUR)
            else:
                file.write(piece)
        assert curl.stdout.read(1) == b""
    assert curl.returncode == 0


def listed(program: str, tar: Path) -> dict[str, int]:
    """Path and size of each member, as ``program`` lists them."""
    command = [program, "-tvf", str(tar)]
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}
    told = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=True)
    lines = [each.split() for each in told.stdout.splitlines()]
    return {each[-1]: int(each[SIZE_COLUMN[program]]) for each in lines}


def check_by_tarfile(tar: Path, members: Mapping[str, Path]) -> None:
    """Python's tarfile finds all members, and the last bytes of each are right."""
    with tarfile.open(tar) as opened:
        for member, file in zip(opened.getmembers(), members.values(), strict=True):
            found = opened.extractfile(member)
            assert found is not None
            found.seek(-1000, os.SEEK_END)
            assert found.read() == last(file), member.name


def last(file: Path) -> bytes:
    """The last 1000 bytes."""
    with file.open("rb") as opened:
        opened.seek(-1000, os.SEEK_END)
        return opened.read()


@pytest.mark.slow
def test_a_cart_of_more_than_8_gib(site: Site, archive: Path, members: Mapping[str, Path]) -> None:
    """Curl gets the very bytes that the layout says, and GNU tar, bsdtar and Python's tarfile read them."""
    hub = site.hub(sections={"archive": {"url": archive.as_uri()}})
    hub.start()
    body = {"fileids": [{"id": file.name, "path": path} for path, file in members.items()]}
    assert hub.call("POST", "/huge", json.dumps(body)).status == 201
    told = hub.call("GET", "/carts/huge?wait=30s").json
    assert (told["status"], told["size"]) == ("ready", sum(file.stat().st_size for file in members.values()))
    url, tar = f"http://127.0.0.1:{hub.port}/carts/huge/{TOP}.tar", archive / "got.tar"
    check_download(url, laid_out(members), tar)
    sizes = {f"{TOP}/{path}": file.stat().st_size for path, file in members.items()}
    assert {program: listed(program, tar) for program in SIZE_COLUMN} == dict.fromkeys(SIZE_COLUMN, sizes)
    check_by_tarfile(tar, members)
    rest = subprocess.run(["curl", "-sSf", "-r", f"{HUGE}-", url], capture_output=True, timeout=30, check=True).stdout
    with tar.open("rb") as file:
        file.seek(HUGE)
        assert file.read() == rest


@contextmanager
def asked_all_the_time(hub: Daemon) -> Iterator[None]:
    """Ask for the hub's health without a pause as long as the block runs: it answers every time."""
    over = Event()

    def ask() -> int:
        count = 0
        while not over.is_set():
            assert hub.call("GET", "/health", seconds=PATIENCE).status == 200
            count += 1
            over.wait(0.1)
        return count

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            over.set()
        assert asking.result() > 0


@pytest.mark.slow
def test_a_thousand_carts_at_once(site: Site, archive: Path) -> None:
    """All become ready, while the hub answers others and keeps little in memory."""
    for number in range(FILES):
        (archive / f"f{number}").write_bytes(bytes([number]) * 1000)
    hub = site.hub(sections={"archive": {"url": archive.as_uri()}})
    hub.start()
    files = [{"id": f"f{number}", "path": f"d/{number}"} for number in range(FILES)]

    def post(number: int) -> int:
        return hub.call("POST", f"/c{number}", json.dumps({"fileids": files})).status

    def left() -> int:
        return int(site.rows("SELECT count(*) AS n FROM cart WHERE status <> 'ready'")[0].n)

    with asked_all_the_time(hub):
        with ThreadPoolExecutor(POSTING) as pool:
            assert set(pool.map(post, range(CARTS))) == {201}
        until(lambda: not left(), "a thousand carts")
    page = hub.call("GET", "/carts?status=ready&limit=1000").json
    assert (len(page["items"]), page["next"]) == (CARTS, None)
    assert {each["progress"]["done"] for each in page["items"]} == {FILES * 1000}
    assert hub.memory() < ENOUGH


@pytest.mark.slow
def test_a_cart_of_many_files(site: Site, archive: Path) -> None:
    """It is taken on, made ready and sent, any part of it, while the hub answers others and keeps little in memory."""
    for number in range(FILES):
        (archive / f"f{number}").write_bytes(bytes([number]))
    hub = site.hub(sections={"archive": {"url": archive.as_uri()}})
    hub.start()
    entries = [{"id": f"f{number % FILES}", "path": f"{number % 100:02}/{number:06}"} for number in range(MANY)]
    with asked_all_the_time(hub):
        assert hub.call("POST", "/many", json.dumps({"fileids": entries})).status == 201
        told = hub.call("GET", "/carts/many?wait=60s&limit=0").json
        assert (told["status"], told["progress"]["files_done"]) == ("ready", MANY)
        url = f"http://127.0.0.1:{hub.port}/carts/many/{TOP}.tar"
        curl = subprocess.Popen(["curl", "-sSf", "-m", "60", url], stdout=subprocess.PIPE)
        with curl, tarfile.open(fileobj=curl.stdout, mode="r|") as tar:
            found = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
        assert curl.returncode == 0
    assert found == {f"{TOP}/{each['path']}": bytes([int(each["id"][1:])]) for each in entries}
    assert hub.memory() < ENOUGH


@pytest.mark.slow
def test_callers_who_take_their_time(site: Site, archive: Path) -> None:
    """Each gets what it reads of a large tar, nobody is cut off, and what they have not read yet lies nowhere."""
    for number in range(50):
        (archive / f"f{number}").write_bytes(random.Random(number).randbytes(MIB))
    hub = site.hub(sections={"archive": {"url": archive.as_uri()}})
    hub.start()
    body = {"fileids": [{"id": f"f{number}", "path": f"{number:02}"} for number in range(50)]}
    assert hub.call("POST", "/slow", json.dumps(body)).status == 201
    assert hub.call("GET", "/carts/slow?wait=30s").json["status"] == "ready"
    url = f"http://127.0.0.1:{hub.port}/carts/slow/{TOP}.tar"
    tar = subprocess.run(["curl", "-sSf", "-m", "30", url], capture_output=True, check=True).stdout
    with ExitStack() as stack:
        lines = [stack.enter_context(slow_caller(hub.port, f"/carts/slow/{TOP}.tar")) for _ in range(CALLERS)]
        taken = [bytearray() for _ in lines]
        with asked_all_the_time(hub):
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                for line, data in zip(lines, taken, strict=True):
                    part = line.recv(STEP_OF_CALLER)
                    assert part, "it was cut off"
                    data.extend(part)
                time.sleep(0.1)
        assert hub.memory() < ENOUGH
        assert subprocess.run(["curl", "-sSf", "-m", "30", url], capture_output=True, check=True).stdout == tar
    for data in taken:
        body_taken = bytes(data).partition(b"\r\n\r\n")[2]
        assert len(body_taken) > 10 * STEP_OF_CALLER
        assert tar.startswith(body_taken)


@contextmanager
def slow_caller(port: int, path: str) -> Iterator[socket.socket]:
    """A connection that asks for ``path``, and of whose answer the kernel takes little in advance."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        line.settimeout(PATIENCE)
        line.connect(("127.0.0.1", port))
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        yield line
