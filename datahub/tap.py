"""What twistd calls: options and configuration become the hub's service.

Nothing is opened here but the log: with twistd as a daemon this runs in the parent, the service starts in the child.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from types import TracebackType
from typing import Any, ClassVar, NoReturn

from twisted.application.service import IService
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from twisted.python.reflect import qual
from twisted.python.usage import Options as UsageOptions

from datahub.config import Config, ConfigError, LogSection, find, load
from datahub.errors import StartError
from datahub.kit.logs import LogObserver, bridge, open_sink

__all__ = ["Options", "describe", "makeService", "refuse"]

log = Logger()

FILES = 65_536
"""Descriptors; as many as the unit files ask for."""


class Options(UsageOptions):
    """The options after ``twistd datahub``; parsing them loads the configuration."""

    optParameters: ClassVar[list[list[str | None]]] = [
        ["config", "c", None, "the configuration file (default: $DATAHUB_CONFIG, else /etc/datahub/datahub.toml)"],
    ]
    observer: ClassVar[Callable[[], ILogObserver]]
    configuration: Config

    def postOptions(self) -> None:
        """Load the configuration, and have twistd log as it says unless --logger or --syslog was given."""
        try:
            config = load(find(self["config"], os.environ), os.environ)
        except ConfigError as error:
            refuse(error)
        self.configuration = config
        twistd = self.parent
        if twistd is None:
            return
        if twistd["logger"] is None and not twistd["syslog"]:
            # twistd wants the importable name of a factory.
            Options.observer = partial(_observer, config.log, _log_file(config.log, twistd))
            twistd["logger"] = f"{qual(Options)}.observer"
        if config.log.directory is None and not twistd["nodaemon"]:
            # A daemon's standard output is /dev/null: other logs go beside twistd's.
            self.configuration = replace(config, log=replace(config.log, directory=_run_folder(twistd)))


def makeService(options: Options) -> IService:
    """Build the hub; opens nothing, and what can't start is told in one line."""
    # Only now has twistd chosen its reactor, and what the hub imports may want one.
    from twisted.internet import reactor

    from datahub.hub import make_hub

    _allow_files()
    daemon = options.parent is not None and not options.parent["nodaemon"]
    _tell_failed_start(reactor, daemon)
    for warning in options.configuration.warnings():
        log.warn("{warning}", warning=warning)
    return make_hub(options.configuration, reactor)


def _allow_files() -> None:
    """Let many files and connections be open: at a prompt 1,024 are, and 200 downloads want more."""
    soft, hard = getrlimit(RLIMIT_NOFILE)
    wanted = FILES if hard == RLIM_INFINITY else min(FILES, hard)
    if soft != RLIM_INFINITY and soft < wanted:
        setrlimit(RLIMIT_NOFILE, (wanted, hard))


def describe(error: StartError) -> str:
    """Say why the hub does not start: one line for each reason, with what would be right."""
    prefix = f"datahub: {error.file}: " if isinstance(error, ConfigError) else "datahub: "
    return "\n".join(prefix + line for line in str(error).splitlines())


def refuse(error: StartError) -> NoReturn:
    """End the process with exit code 1 and the reason on standard error."""
    raise SystemExit(describe(error)) from None


def _tell_failed_start(reactor: Any, daemon: bool) -> None:
    """Have a `StartError` of startService shown as a line rather than as a traceback.

    A daemon's standard error is /dev/null by then, so the terminal's is kept until the hub runs.
    """
    terminal = _keep_terminal() if daemon else None
    usual = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if daemon:
            log.failure("the daemon could not start", Failure(error, kind, trace))
        if isinstance(error, StartError):
            _print(describe(error), terminal)
        else:
            usual(kind, error, trace)

    def started() -> None:
        sys.excepthook = usual
        if terminal is not None:
            os.close(terminal)

    sys.excepthook = tell
    reactor.callWhenRunning(started)


def _keep_terminal() -> int | None:
    try:
        return os.dup(2)
    except OSError:
        return None  # started without one


def _print(line: str, terminal: int | None) -> None:
    try:
        # Not sys.stderr: Twisted makes what is written there a log event.
        os.write(2 if terminal is None else terminal, f"{line}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # nobody is left to read it; the exit code stays


def _observer(section: LogSection, file: Path | None) -> ILogObserver:
    """Make twistd's observer; a name of ``[log.levels]`` stands for datahub's own part of that name, too."""
    try:
        sink = open_sink(file, section.max_bytes, section.backups)
    except OSError as error:
        refuse(StartError(f"the log file {file} can't be opened: {error.strerror}; see [log] directory"))
    levels = {f"datahub.{name}": level for name, level in section.levels.items()} | dict(section.levels)
    bridge(section.levels)
    return LogObserver(sink, section.format, section.level, levels)


def _log_file(section: LogSection, twistd: UsageOptions) -> Path | None:
    """Say where twistd's log goes: --logfile, else app.log in the log folder, else stdout or twistd.log."""
    daemon, given = not twistd["nodaemon"], twistd["logfile"]
    if given == "-" and daemon:
        refuse(StartError("a daemon can't log to standard output; give --logfile a file, or use --nodaemon"))
    if given and given != "-":
        return Path(given).absolute()
    if section.directory is not None and not given:
        return section.directory / "app.log"
    return _run_folder(twistd) / "twistd.log" if daemon else None


def _run_folder(twistd: UsageOptions) -> Path:
    return Path(twistd["rundir"]).absolute()
