"""Carts by the real daemon: the README's lines, downloads that are cut, kill -9, Pacifica's own programs."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.whole.daemon import Daemon, free_port, until
from tests.whole.site import Site

FOO = {"fileids": [{"id": "catalogue.fits", "path": "1/2/3/foo.txt"}, {"id": "cube.bin", "path": "2/3/4/baz.ini"}]}


def run(*command: object, folder: Path, seconds: float = 60.0, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(each) for each in command],
        cwd=folder,
        timeout=seconds,
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


class Cutting:
    """A proxy that cuts every connection at a random byte, up to a point where it has had enough of that."""

    def __init__(self, port: int, cuts: int, most: int) -> None:
        self._chance = random.Random(7)
        self._to, self._most = port, most
        self.left = cuts
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._socket.accept()
                threading.Thread(target=self._relay, args=(caller,), daemon=True).start()

    def _relay(self, caller: socket.socket) -> None:
        with suppress(OSError), closing(caller), socket.create_connection(("127.0.0.1", self._to)) as hub:
            threading.Thread(target=self._upwards, args=(caller, hub), daemon=True).start()
            room = self._chance.randrange(1000, self._most) if self.left > 0 else 1 << 60
            while data := hub.recv(65536):
                caller.sendall(data[:room])
                room -= len(data)
                if room <= 0:
                    self.left -= 1
                    break
            # Closing alone would wait for the other thread, which reads.
            for each in (caller, hub):
                each.shutdown(socket.SHUT_RDWR)

    def _upwards(self, caller: socket.socket, hub: socket.socket) -> None:
        with suppress(OSError):
            while data := caller.recv(65536):
                hub.sendall(data)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def hub(site: Site) -> Daemon:
    """A hub with a cart's files in its archive."""
    daemon = site.hub()
    daemon.start()
    return daemon


def make(hub: Daemon, uid: str, body: Any = FOO) -> None:
    assert hub.call("POST", f"/{uid}", json.dumps(body)).status == 201
    told = hub.call("GET", f"/carts/{uid}?wait=30s").json
    assert told["status"] == "ready", told


def test_the_lines_of_the_readme(site: Site, hub: Daemon, tmp_path: Path) -> None:
    """POST by --upload-file, -X HEAD, get, -O -J and tar, -X DELETE; none of them waits for what does not come."""
    url = f"http://127.0.0.1:{hub.port}/6b2c7f5e-6a0d-4a43-9c1d-0c8b4c6a2b11"
    (tmp_path / "foo.json").write_text(json.dumps(FOO))
    curl = ("curl", "-sS", "-m", "20")
    assert "begun" in run(*curl, "-X", "POST", "--upload-file", tmp_path / "foo.json", url, folder=tmp_path).stdout
    until(
        lambda: "Status: ready" in run(*curl, "-i", "-X", "HEAD", url, folder=tmp_path).stdout, "a cart that is ready"
    )
    got = run(*curl, "-O", "-J", f"{url}?filename=my_cart.tar", folder=tmp_path)
    assert got.returncode == 0, got.stderr
    assert run("tar", "xf", "my_cart.tar", folder=tmp_path).returncode == 0
    assert (tmp_path / "my_cart/2/3/4/baz.ini").read_bytes() == (site.archive / "cube.bin").read_bytes()
    assert "Deleted" in run(*curl, "-X", "DELETE", url, folder=tmp_path).stdout
    gone = run(*curl, "-i", "-X", "HEAD", url, folder=tmp_path)
    assert (gone.returncode, gone.stdout.splitlines()[0]) == (0, "HTTP/1.1 404 Not Found")
    stranger = run(*curl, "-i", "-X", "HEAD", "-H", "Authorization: Bearer bad", url, folder=tmp_path)
    assert (stranger.returncode, stranger.stdout.splitlines()[0]) == (0, "HTTP/1.1 401 Unauthorized")
    # Nobody has a copy of anything.
    assert not (site.folder / "state" / "hub1" / "carts").exists()


def test_downloads_that_are_cut(site: Site, hub: Daemon, tmp_path: Path) -> None:
    """Curl with If-Range, wget -c and get.sh go on where they were cut, and what they have in the end is whole."""
    make(hub, "cut")
    whole = run("curl", "-sS", "-o", "whole.tar", f"http://127.0.0.1:{hub.port}/carts/cut/cut.tar", folder=tmp_path)
    assert whole.returncode == 0
    expected = hashlib.sha256((tmp_path / "whole.tar").read_bytes()).hexdigest()
    for name in ("curl", "wget", "script"):
        folder = tmp_path / name
        folder.mkdir()
        proxy = Cutting(hub.port, cuts=8, most=2_500_000)
        url = f"http://127.0.0.1:{proxy.port}/carts/cut/cut.tar"
        try:
            if name == "curl":
                tag = hub.call("HEAD", "/carts/cut/cut.tar").headers["ETag"]
                command = ["curl", "-sS", "-C", "-", "-H", f"If-Range: {tag}", "-o", "cut.tar", url]
                until(lambda: run(*command, folder=folder).returncode == 0, "a whole file by curl")  # noqa: B023
            elif name == "wget":
                run("wget", "-q", "-c", "-t", "0", "--waitretry=0", "-O", "cut.tar", url, folder=folder)
            else:
                script = hub.call("GET", "/carts/cut/get.sh").text.replace(str(hub.port), str(proxy.port))
                (folder / "get.sh").write_text(script)
                done = run("sh", "get.sh", folder=folder, seconds=40, env={"PATH": "/usr/bin:/bin", "PAUSE": "0"})
                assert done.returncode == 0, (done.stdout, done.stderr)
                assert (folder / "cut/2/3/4/baz.ini").exists()
        finally:
            proxy.close()
        assert proxy.left < 8, "nothing was cut"
        assert hashlib.sha256((folder / "cut.tar").read_bytes()).hexdigest() == expected, name


def script(hub: Daemon, uid: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    (folder / "get.sh").write_text(hub.call("GET", f"/carts/{uid}/get.sh").text)
    return run("sh", "get.sh", folder=folder, seconds=40, env={"PATH": "/usr/bin:/bin", "TRIES": "5", **environ})


def test_what_get_sh_says(site: Site, hub: Daemon, tmp_path: Path) -> None:
    """Another's file is kept, run again it fetches nothing, and it ends with the hub's own words."""
    make(hub, "said")
    (tmp_path / "said.tar").write_text("mine")
    done = script(hub, "said", tmp_path)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert (tmp_path / "said.tar.old").read_text() == "mine"
    before = (tmp_path / "said.tar").stat().st_ino
    assert script(hub, "said", tmp_path, DATAHUB_TOKEN="").returncode == 0
    assert (tmp_path / "said.tar").stat().st_ino == before
    refused = script(hub, "said", tmp_path, DATAHUB_TOKEN="nobody knows it")
    assert (refused.returncode, "401" in refused.stderr) == (1, True), refused.stderr
    assert hub.call("POST", "/none", json.dumps({"fileids": [{"id": "none", "path": "x/y"}]})).status == 201
    assert hub.call("GET", "/carts/none?wait=30s").json["status"] == "error"
    failed = script(hub, "none", tmp_path)
    assert (failed.returncode, "'none' is not in the archive" in failed.stderr) == (1, True), failed.stderr
    make(hub, "going")
    asked = hub.call("GET", "/carts/going/get.sh").text
    assert hub.call("DELETE", "/going").status == 200
    (tmp_path / "get.sh").write_text(asked)
    gone = run("sh", "get.sh", folder=tmp_path, seconds=40)
    assert (gone.returncode, "cart 'going' was deleted at" in gone.stderr) == (1, True), gone.stderr
    assert "deleted by anonymous@" in gone.stderr
    assert not (tmp_path / "going.tar").exists()


def test_a_source_that_changes_while_it_is_sent(site: Site, hub: Daemon) -> None:
    """The connection breaks before the end, over the kernel's own sending as well."""
    make(hub, "change", {"fileids": [{"id": "cube.bin", "path": f"{n}"} for n in range(8)]})
    with socket.create_connection(("127.0.0.1", hub.port), timeout=30) as line:
        line.sendall(b"GET /carts/change/t.tar HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first = line.recv(65536)
        length = int(first.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        with (site.archive / "cube.bin").open("r+b") as file:
            file.write(b"changed")
        count = len(first)
        with suppress(ConnectionResetError):
            while data := line.recv(1 << 20):
                count += len(data)
    assert count < length


def test_a_source_that_has_changed(site: Site, hub: Daemon) -> None:
    """Is told of before anything is sent: by a status and a reason; and to the operator in the log."""
    make(hub, "old")
    (site.archive / "catalogue.fits").write_bytes(b"other")
    answer = hub.call("GET", "/carts/old/old.tar")
    assert (answer.status, answer.headers["X-Datahub-Error"]) == (409, "cart.changed")
    assert "has changed in the archive since the cart was made" in answer.text
    until(lambda: "a download of cart old is broken off" in hub.log, "a line in the log")


def test_killed_while_staging(site: Site, tmp_path: Path) -> None:
    """After kill -9 the cart becomes ready by itself."""
    hub = site.hub()
    hub.start()
    files = [{"id": "cube.bin", "path": f"{n}", "hashtype": "md5", "hashsum": "0" * 32} for n in range(3)]
    for number in range(20):
        assert hub.call("POST", f"/k{number}", json.dumps({"fileids": files[:1] + FOO["fileids"]})).status == 201
        assert hub.call("POST", f"/r{number}", json.dumps(FOO)).status == 201
    hub.kill()
    hub.start()
    for number in range(20):
        assert hub.call("GET", f"/carts/k{number}?wait=60s", seconds=70).json["status"] == "error"
        assert hub.call("GET", f"/carts/r{number}?wait=60s", seconds=70).json["status"] == "ready"


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


PINS = ("pacifica-downloader==0.4.1", "pacifica-archiveinterface==0.4.2")
DOWNLOAD = """
import json, sys
from pacifica.downloader import Downloader
downloader = Downloader(cart_api_url=sys.argv[1])
url = downloader.cart_api.setup_cart(lambda: json.loads(sys.argv[2]))
downloader.cart_api.wait_for_cart(url)
downloader._download_from_url(sys.argv[3], url, "data")
"""


@pytest.fixture(scope="session")
def pacifica() -> Path:
    """The folder of programs of a virtual environment with Pacifica's own, made once and kept."""
    folder = Path(__file__).parents[2] / "build" / "pacifica"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        run("python3", "-m", "venv", folder, folder=Path("/"))
        made = run(python, "-m", "pip", "install", "-q", *PINS, folder=Path("/"), seconds=240)
        if made.returncode:
            pytest.skip(f"Pacifica's programs can't be installed here: {made.stderr[-300:]}")
        (folder / "made").touch()
    return folder / "bin"


@pytest.fixture
def interface(pacifica: Path, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A real archive interface: its files, and its port."""
    files, port = tmp_path / "files", free_port()
    files.mkdir()
    (tmp_path / "cp.ini").write_text(
        f"[global]\nlog.screen: False\nserver.socket_host: '127.0.0.1'\nserver.socket_port: {port}\n"
        "[/]\nrequest.dispatch: cherrypy.dispatch.MethodDispatcher()\ntools.response_headers.on: True\n"
        "tools.response_headers.headers: [('Content-Type', 'application/json')]\n"
    )
    command = [f"{pacifica}/pacifica-archiveinterface", "--cherrypy-config", f"{tmp_path}/cp.ini", "-t", "posix"]
    process = subprocess.Popen(
        [*command, "-p", str(port), "-a", "127.0.0.1", "--prefix", str(files)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: listens(port), "an archive interface", 30)
        yield files, port
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pacificas_own_programs(site: Site, pacifica: Path, interface: tuple[Path, int], tmp_path: Path) -> None:
    """pacifica-downloader before the hub, and the hub before pacifica-archiveinterface: as if Cartd was there."""
    files, port = interface
    contents = {f"f{n}": random.Random(n).randbytes(1000 * n + 1) for n in range(30)} | {"12345": b"by its number"}
    for name, data in contents.items():
        (files / name).write_bytes(data)
    url = f"pacifica+http://127.0.0.1:{port}/"
    hub = site.hub(sections={"archive": {"url": url}, "carts": {"old_clients": True}})
    hub.start()
    wanted = [
        {"id": name, "path": f"/{name}", "hashtype": "sha1", "hashsum": hashlib.sha1(data).hexdigest()}
        for name, data in contents.items()
    ]
    base, out = f"http://127.0.0.1:{hub.port}", tmp_path / "out"
    told = run(pacifica / "python", "-c", DOWNLOAD, base, json.dumps(wanted), out, folder=tmp_path)
    assert told.returncode == 0, told.stderr
    assert {each.name: each.read_bytes() for each in (out / "data").iterdir()} == contents
    assert hub.call("POST", "/none", json.dumps({"fileids": [{"id": "none", "path": "x"}]})).status == 201
    told_of = hub.call("GET", "/carts/none?wait=30s", seconds=40).json
    assert (told_of["status"], told_of["error"]) == ("error", "x: 'none' is not in the archive")
    (files / "large").write_bytes(random.Random(1).randbytes(40_000_000))
    assert hub.call("POST", "/large", json.dumps({"fileids": [{"id": "large", "path": "l"}, *wanted]})).status == 201
    until(lambda: list((site.folder / "state" / "hub1" / "carts").rglob("*.part")), "a fetch that has begun")
    hub.kill()
    before = {each.name: each.stat().st_ino for each in (site.folder / "state" / "hub1" / "carts").rglob("*")}
    hub.start()
    assert hub.call("GET", "/carts/large?wait=60s", seconds=70).json["status"] == "ready"
    after = {each.name: each.stat().st_ino for each in (site.folder / "state" / "hub1" / "carts").rglob("*")}
    kept = {name: inode for name, inode in before.items() if not name.endswith(".part")}
    assert {name: after.get(name) for name in kept} == kept, "what was whole was fetched again"
