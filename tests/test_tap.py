"""Starting by twistd's machinery: what is logged where, and how a hub that can't start says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from resource import RLIM_INFINITY
from typing import Any

import pytest
from twisted.application.service import IService, Service
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver

import datahub
from datahub import tap
from datahub.config import Config, ConfigError
from datahub.errors import StartError
from datahub.tap import Options, describe, makeService, refuse

ROOT = Path(datahub.__file__).parents[1]
NEEDED = '[archive]\nurl = "file:///srv/archive"\n[transfers.movers]\nfile = "local:/srv/deliveries"\n'

# The command with a hub of our own: it starts, refuses to, or breaks, as its first argument says.
STARTED = """
import sys, types
from twisted.application.service import Service
from twisted.logger import Logger
from datahub.errors import StartError

def make_hub(config, reactor):
    class Hub(Service):
        def startService(self):
            if sys.argv[1] == "refuse":
                raise StartError("port 8080 is taken; " + "stop the other daemon " * 10)
            if sys.argv[1] == "break":
                raise ZeroDivisionError("a bug")
            Logger("datahub.hub").info("up, logs in {folder}", folder=str(config.log.directory))
            print("printed")
            reactor.callLater(0.1, reactor.stop)
    return Hub()

sys.modules["datahub.hub"] = types.ModuleType("datahub.hub")
sys.modules["datahub.hub"].make_hub = make_hub
from datahub.command import main
main(sys.argv[2:])
"""
REASON = "datahub: port 8080 is taken; " + "stop the other daemon " * 10


class Host:
    """A folder with a configuration in it, and the command run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "datahub.toml"
        self.write("")

    def write(self, text: str) -> None:
        self.config.write_text(NEEDED + text)

    def serve(self, hub: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``datahub serve`` to its end; its output ends when nobody holds it any more."""
        command = [sys.executable, "-c", STARTED, hub, "serve", "--config", str(self.config), *arguments]
        return run(command, self.folder)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``command`` with this datahub, installed or not."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_foreground_logs_to_standard_output(host: Host) -> None:
    """In our format, and without a pidfile."""
    ended = host.serve("start")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line.split(" ", 3)[1:] for line in ended.stdout.splitlines() if "datahub.hub" in line] == [
        ["info", "datahub.hub", "up, logs in None"]
    ]
    assert not list(host.folder.glob("twistd*"))


def test_foreground_logs_as_configured(host: Host) -> None:
    """As JSON, at the levels asked for; a name in [log.levels] is datahub's own part of that name."""
    host.write('[log]\nformat = "json"\nlevel = "error"\n[log.levels]\nhub = "info"')
    ended = host.serve("start")
    (line,) = ended.stdout.splitlines()
    assert json.loads(line)["fields"] == {"folder": "None"}


def test_foreground_logs_to_the_folder(host: Host) -> None:
    """With a log folder nothing is left on standard output."""
    host.write('[hub]\nstate = "state"\n[log]\ndirectory = "log"')
    ended = host.serve("start")
    assert ended.stdout == ""
    assert "info datahub.hub up" in (host.folder / "state" / "log" / "app.log").read_text()


def test_daemon_logs_beside_twistd(host: Host) -> None:
    """Without a log folder that is twistd.log in the run folder, and the hub's other logs go there, too."""
    run = host.folder / "run"
    run.mkdir()
    ended = host.serve("start", "--daemon", "--", f"--rundir={run}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"info datahub.hub up, logs in {run}" in (run / "twistd.log").read_text()


def test_daemon_logs_to_the_file_it_was_given(host: Host) -> None:
    """The option of twistd itself is followed, in our format."""
    host.write('[log]\nformat = "json"\ndirectory = "/nowhere"')
    ended = host.serve("start", "--daemon", "--", "--logfile=own.log")
    assert ended.returncode == 0
    lines = [json.loads(line) for line in (host.folder / "own.log").read_text().splitlines()]
    assert "up, logs in {folder}" in [line["event"] for line in lines]


def test_daemon_can_not_log_to_standard_output(host: Host) -> None:
    """It has none."""
    ended = host.serve("start", "--daemon", "--", "--logfile=-")
    assert ended.returncode == 1
    assert ended.stderr.startswith("datahub: a daemon can't log to standard output")


def test_log_that_can_not_be_opened(host: Host) -> None:
    """The file is named, in one line."""
    (host.folder / "file").touch()
    host.write(f'[log]\ndirectory = "{host.folder}/file/log"')
    ended = host.serve("start")
    assert ended.returncode == 1
    assert ended.stderr == (
        f"datahub: the log file {host.folder}/file/log/app.log can't be opened: Not a directory; see [log] directory\n"
    )


def test_refusal_in_the_foreground_is_one_line(host: Host) -> None:
    """What startService says is all there is on standard error."""
    ended = host.serve("refuse")
    assert (ended.returncode, ended.stderr) == (1, f"{REASON}\n")


def test_refusal_of_a_daemon_reaches_the_terminal_whole(host: Host) -> None:
    """The first hundred bytes are told by twistd; the whole line is there as well, and in the log."""
    ended = host.serve("refuse", "--daemon")
    assert ended.returncode == 1
    assert f"{REASON}\n" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "port 8080 is taken" in (host.folder / "twistd.log").read_text()
    assert not (host.folder / "twistd.pid").exists()


@pytest.mark.parametrize("how", ["--nodaemon", "--daemon"])
def test_bug_at_start_keeps_its_traceback(host: Host, how: str) -> None:
    """Only refusals are shortened; a daemon's bug is found in its log."""
    ended = host.serve("break", how)
    assert ended.returncode == 1
    told = ended.stderr if how == "--nodaemon" else (host.folder / "twistd.log").read_text()
    assert "ZeroDivisionError: a bug" in told + ended.stdout
    assert "Traceback" in told + ended.stdout


@pytest.mark.parametrize("how", ["--nodaemon", "--daemon"])
def test_wrong_configuration_is_plain_lines(host: Host, how: str) -> None:
    """One for each error, with the file's name, no usage page, and nothing is started."""
    host.write("[hub]\nnode = 3\ndrian = 3")
    ended = host.serve("start", how)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        f'datahub: {host.config}: hub.drian: is not a known key; did you mean "drain"?',
        f"datahub: {host.config}: hub.node: is 3; it must be a name of letters, digits, . _ -",
    ]


def test_wrong_twistd_option_is_a_usage_error(host: Host) -> None:
    """What twistd does not know it says itself."""
    ended = host.serve("start", "--", "--colour=red")
    assert ended.returncode == 2
    assert "Error: option --colour not recognized" in ended.stderr


def test_reactor_is_left_to_twistd(host: Host) -> None:
    """Whoever imports the command or the plugin has not chosen a reactor by that."""
    script = "import sys, datahub.command, datahub.tap; print('twisted.internet.reactor' in sys.modules)"
    assert run([sys.executable, "-c", script], host.folder).stdout == "False\n"


def test_plugin_is_found_by_twistd(host: Host) -> None:
    """Plain twistd knows datahub, and ends with the same lines."""
    host.write("[hub]\nnode = 3")
    script = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    command = [sys.executable, "-c", script, "-n", "--pidfile=", "datahub", "-c", str(host.config)]
    ended = run(command, host.folder)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith(f"datahub: {host.config}: hub.node: is 3")


class Twistd(dict[str, Any]):
    """The options of twistd itself."""

    def __init__(self, **given: Any) -> None:
        super().__init__(logger=None, syslog=False, nodaemon=True, logfile=None, rundir=".", **given)


def parse(host: Host, twistd: Any) -> Options:
    """Our options below those of ``twistd``."""
    options = Options()
    options.parent = twistd
    options.parseOptions(["--config", str(host.config)])
    return options


def test_logger_option_has_precedence(host: Host) -> None:
    """Who chose a logger or syslog keeps it."""
    for chosen in ({"logger": "a.b"}, {"syslog": True}):
        twistd = Twistd()
        twistd.update(chosen)
        parse(host, twistd)
        assert twistd["logger"] == chosen.get("logger")


def test_logger_is_named_for_twistd(host: Host) -> None:
    """The factory is imported by its name, after our options are parsed."""
    twistd = Twistd()
    parse(host, twistd)
    assert twistd["logger"] == "datahub.tap.Options.observer"
    assert ILogObserver.providedBy(Options.observer())


def test_make_service_hands_the_configuration_to_the_hub(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With twistd's reactor, and nothing is started; once the reactor runs, errors are shown as usual again."""
    made: list[tuple[Config, object]] = []
    hub, reactor, usual = Service(), MemoryReactorClock(), sys.excepthook
    monkeypatch.setattr("twisted.internet.reactor", reactor, raising=False)

    def make_hub(config: Config, reactor: object) -> IService:
        made.append((config, reactor))
        return hub

    fake = types.ModuleType("datahub.hub")
    fake.make_hub = make_hub  # type: ignore[attr-defined]  # the module's only function
    monkeypatch.setitem(sys.modules, "datahub.hub", fake)
    monkeypatch.setattr(sys, "excepthook", usual)
    options = parse(host, None)
    service: object = makeService(options)
    assert service is hub
    assert made == [(options.configuration, reactor)]
    assert hub.running == 0
    shortened = sys.excepthook
    for started, args, kwargs in reactor.whenRunningHooks:
        started(*args, **kwargs)
    assert (sys.excepthook, shortened is usual) == (usual, False)


def test_refusal_ends_with_the_text() -> None:
    """`SystemExit` with a text is exit code 1 and that text on standard error."""
    with pytest.raises(SystemExit) as caught:
        refuse(StartError("no room"))
    assert caught.value.code == "datahub: no room"


def test_each_problem_of_a_configuration_names_the_file() -> None:
    """So that who has several knows which."""
    error = ConfigError(Path("/etc/x.toml"), ["a: wrong", "b: wrong"])
    assert describe(error) == "datahub: /etc/x.toml: a: wrong\ndatahub: /etc/x.toml: b: wrong"


def test_many_files_may_be_open(monkeypatch):
    """As many as the unit files ask for, whoever starts the daemon; never fewer than there were."""
    given = []
    monkeypatch.setattr(tap, "setrlimit", lambda _, limits: given.append(limits))
    for limits in ((1024, 1_048_576), (1024, 4096), (1024, RLIM_INFINITY), (200_000, 1_048_576), (4096, 4096)):
        monkeypatch.setattr(tap, "getrlimit", lambda _, limits=limits: limits)
        tap._allow_files()
    assert given == [(65_536, 1_048_576), (4096, 4096), (65_536, RLIM_INFINITY)]
