"""What keeps a daemon from starting: told at once, in one line that says what to do."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import make_url

from tests.servers import server_url
from tests.whole.daemon import FOREGROUND, SOON, Daemon, free_port, until
from tests.whole.relay import Relay
from tests.whole.site import Site


@pytest.fixture
def background(tmp_path: Path) -> Iterator[list[str]]:
    """Give the options of a daemon that leaves the terminal, and end what it would leave."""
    run = tmp_path / "run"
    run.mkdir()
    yield [f"--rundir={run}", f"--pidfile={run}/pid"]
    if (run / "pid").exists():
        with suppress(ProcessLookupError):
            os.kill(int((run / "pid").read_text()), signal.SIGKILL)


def busy_port(site: Site) -> Daemon:
    daemon = site.hub()
    site.taken = socket.create_server(("127.0.0.1", daemon.port))  # type: ignore[attr-defined]  # lives as long as it
    return daemon


def unwritable_state(site: Site) -> Daemon:
    (site.folder / "file").touch()
    return site.hub(sections={"hub": {"state": str(site.folder / "file" / "state")}})


def read_only_state(site: Site) -> Daemon:
    return site.hub(sections={"hub": {"state": "/proc/datahub"}})


def newer_database(site: Site) -> Daemon:
    with sqlite3.connect(site.folder / "datahub.sqlite") as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
    database.close()
    return site.hub()


def broken_database(site: Site) -> Daemon:
    (site.folder / "datahub.sqlite").write_text("This is no database, but a text that somebody wrote. " * 100)
    return site.hub()


def taken_database(site: Site) -> Daemon:
    site.hub("other").start()
    return site.hub()


def taken_state(site: Site) -> Daemon:
    site.hub("hub1").start()
    return site.hub("hub1")


def absent_server(site: Site) -> Daemon:
    url = f"postgresql+psycopg://datahub:secret@127.0.0.1:{free_port()}/datahub"
    return site.hub(sections={"database": {"url": url, "wait": "2 s"}})


def absent_database(site: Site) -> Daemon:
    url = f"mysql+pymysql://datahub:secret@127.0.0.1:{free_port()}/datahub"
    return site.hub(sections={"database": {"url": url, "wait": "2 s"}})


def wrong_configuration(site: Site) -> Daemon:
    return site.hub(sections={"hub": {"drain": "soon", "speed": 3}})


def absent_configuration(site: Site) -> Daemon:
    daemon = site.hub()
    daemon.config.unlink()
    return daemon


def absent_log_folder(site: Site) -> Daemon:
    (site.folder / "file").touch()
    return site.hub(sections={"log": {"directory": str(site.folder / "file" / "log")}})


def broken_certificate(site: Site) -> Daemon:
    daemon = site.hub()
    for name in ("hub.pem", "hub.key"):
        (site.folder / name).write_text("neither a certificate nor a key")
    tls = '[listen.tls]\ncertificate = "hub.pem"\nkey = "hub.key"\n'
    daemon.config.write_text(daemon.config.read_text().replace("[hub]", f"{tls}[hub]", 1))
    return daemon


Case = tuple[Callable[[Site], Daemon], list[str]]
CASES: list[Case] = [
    (busy_port, ["the port is in use; choose another endpoint in [[listen]] or stop who holds it"]),
    (unwritable_state, ["can't be written (Not a directory): make it writable", "or name another in [hub] state"]),
    (read_only_state, ["the state folder /proc/datahub can't be written", "or name another in [hub] state"]),
    (newer_database, ["is of a newer datahub (revision 9999", "install that version again, or name another database"]),
    (broken_database, ["datahub.sqlite can't be opened", "check the file and [database] url"]),
    (taken_database, ["is in use by process", "stop that one, or use PostgreSQL or MariaDB in [database] url"]),
    (taken_state, ["node 'hub1' runs already as process", "give this daemon another [hub] node and state"]),
    (absent_server, ["did not answer for 2 s", "start it, or check [database] url"]),
    (absent_database, ["did not answer for 2 s", "start it, or check [database] url"]),
    (wrong_configuration, ["hub.drain", "hub.speed"]),
    (absent_configuration, ["hub1-0.toml"]),
    (absent_log_folder, ["/file/log", "see [log] directory"]),
    (broken_certificate, ["hub.pem must hold certificates in PEM form"]),
]
NAMES = [arrange.__name__ for arrange, _ in CASES]


def refused(site: Site, case: Case, options: Sequence[str]) -> list[str]:
    """Start a daemon that must refuse to: its lines on the terminal, without a traceback or a password."""
    arrange, told = case
    daemon = arrange(site)
    daemon.spawn(options=options)
    try:
        assert daemon.ended(SOON) not in {0, -signal.SIGKILL}
    finally:
        if hasattr(site, "taken"):
            site.taken.close()
    lines = [line for line in daemon.stderr.splitlines() if line.startswith("datahub: ")]
    assert len(lines) == (2 if arrange is wrong_configuration else 1), daemon.stderr
    for text in told:
        assert text in "\n".join(lines)
    assert "Traceback" not in daemon.stderr
    assert "secret" not in daemon.stderr
    return daemon.stderr.splitlines()


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_refusal(site: Site, case: Case) -> None:
    """The exit code is not 0, and the whole reason, and nothing else, reaches the terminal."""
    assert all(line.startswith("datahub: ") for line in refused(site, case, FOREGROUND))


# One that is found before the terminal is left, and two that are found after.
@pytest.mark.parametrize("name", ["wrong_configuration", "busy_port", "taken_database"])
def test_refusal_in_the_background(site: Site, background: list[str], name: str) -> None:
    """The terminal hears of it also from a daemon that has left it."""
    assert refused(site, CASES[NAMES.index(name)], background)


def test_daemon_starts_in_the_background(site: Site, tmp_path: Path) -> None:
    """Without -n twistd returns with 0, and the hub works and ends on SIGTERM."""
    daemon = site.hub()
    pidfile = tmp_path / "pid"
    daemon.spawn(options=[f"--rundir={tmp_path}", f"--pidfile={pidfile}"])
    assert daemon.ended() == 0
    number = int(pidfile.read_text())
    try:
        until(lambda: daemon.call("GET", "/ready").status == 200, "a hub that answers")
        job = site.submit(daemon, "catalogue.fits")
        site.check_success(daemon.await_final([job]))
        os.kill(number, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{number}").exists(), "the end of the daemon")
        assert not pidfile.exists()
    finally:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


@pytest.mark.engine
def test_database_server_that_comes_late(postgresql_site: Site) -> None:
    """The hub waits for it, and starts."""
    port = free_port()
    late = make_url(postgresql_site.database).set(port=port).render_as_string(hide_password=False)
    daemon = postgresql_site.hub(sections={"database": {"url": late, "wait": "30 s"}})
    daemon.spawn()
    relay = Relay(port, urlsplit(server_url("postgresql")).port or 5432)
    try:
        until(lambda: "waiting for the database" in daemon.log, "a hub that waits")
        time.sleep(3)
        relay.start()
        daemon.await_answer("/ready", SOON)
        daemon.stop()
    finally:
        relay.close()
