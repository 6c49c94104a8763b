"""Pacifica's Cartd 0.7.0 and its archive interface 0.4.2, started as their documents say, on loopback.

They come from PyPI into an environment of their own, ``build/cartd``, which is kept. The broker is a Redis of their
own; the database is a new one on the PostgreSQL of this machine, because Cartd loses tasks on SQLite once two processes
write to it. redis-server must be installed, and PostgreSQL must run (see `tests.servers`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from measuring import TOP, Process, free_port

sys.path.insert(0, str(TOP))

from sqlalchemy import make_url

from tests.servers import fresh_database

__all__ = ["Pacifica", "pacifica"]

PINS = (
    "pacifica-cartd==0.7.0",
    "pacifica-archiveinterface==0.4.2",
    # These are not pinned by the two above; with these they run on Python 3.11.
    "celery[redis]==5.7.0",
    "cherrypy==18.10.0",
    "packaging==26.3",
    "peewee==4.5.3",
    "psycopg2-binary==2.9.13",
)
WORKERS = 1
"""The archive interface has one open file for all who ask: with two workers Cartd is three times slower."""
CHERRYPY = """
[global]
log.screen: False
[/]
request.dispatch: cherrypy.dispatch.MethodDispatcher()
tools.response_headers.on: True
tools.response_headers.headers: [('Content-Type', 'application/json')]
"""


class Pacifica:
    """The services that run: ``files`` is the folder of the archive interface at ``archive``, ``port`` is Cartd's."""

    def __init__(self, files: Path, archive: str, port: int) -> None:
        self.files = files
        self.archive = archive
        self.port = port


@contextmanager
def pacifica(folder: Path) -> Iterator[Pacifica]:
    """Run Cartd, and all that it needs, in ``folder``; raises `SystemExit` where it can't be installed."""
    programs = _installed()
    files, volume, broker, archive, port = folder / "files", folder / "volume", free_port(), free_port(), free_port()
    for each in (files, volume):
        each.mkdir(parents=True)
    config = folder / "cherrypy.ini"
    config.write_text(CHERRYPY)
    with ExitStack() as stack:
        database = stack.enter_context(fresh_database("postgresql", folder))
        environ = {
            "HOME": folder,
            "PYTHONPATH": "",
            "VOLUME_PATH": f"{volume}/",
            "PEEWEE_URL": make_url(database).set(drivername="postgresql").render_as_string(hide_password=False),
            "ARCHIVE_INTERFACE_URL": f"http://127.0.0.1:{archive}/",
            "BROKER_URL": f"redis://127.0.0.1:{broker}/0",
            "BACKEND_URL": f"redis://127.0.0.1:{broker}/1",
        }

        def run(name: str, port: int, *command: str | Path) -> Process:
            place = folder / name
            place.mkdir()
            process = Process.start(["env", *_settings(environ), *command], port, place)
            stack.callback(process.stop)
            return process

        run("redis", broker, "redis-server", "--port", str(broker), "--bind", "127.0.0.1", "--save", "")
        subprocess.run(["env", *_settings(environ), programs / "pacifica-cartd-cmd", "dbsync"], check=True, timeout=60)
        served = ("-a", "127.0.0.1", "-p")
        interface = (programs / "pacifica-archiveinterface", "--cherrypy-config", config, "-t", "posix")
        run("archive", archive, *interface, "--prefix", files, *served, str(archive)).await_answer("/")
        worker = (programs / "celery", "-A", "pacifica.cartd.tasks", "worker", "--concurrency", str(WORKERS))
        run("worker", 0, *worker, "--loglevel", "warning")
        run("web", port, programs / "pacifica-cartd", "--cpconfig", config, *served, str(port)).await_answer("/")
        yield Pacifica(files, f"pacifica+http://127.0.0.1:{archive}/", port)


def _settings(environ: Mapping[str, object]) -> list[str]:
    return [f"{name}={value}" for name, value in environ.items()]


def _installed() -> Path:
    """Give the folder of Pacifica's programs; raises `SystemExit` with pip's words."""
    folder = TOP / "build" / "cartd"
    made = folder / "made"
    if not made.exists() or made.read_text() != "\n".join(PINS):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", *PINS]
        told = subprocess.run(pip, capture_output=True, text=True, check=False)
        if told.returncode:
            raise SystemExit(f"Cartd can't be installed, so there is nothing to compare with: {told.stderr[-1000:]}")
        made.write_text("\n".join(PINS))
    return folder / "bin"
