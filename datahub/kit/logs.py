"""Logs: Twisted's events as text or JSON lines, the standard library's among them, and a cheap log of requests."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import RLock
from typing import IO, Any, Final, Protocol
from urllib.parse import quote

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from datahub.kit.clock import rfc3339

__all__ = ["AccessLog", "LogObserver", "Sink", "bridge", "open_sink"]

_SECRETS: Final = frozenset({"authorization", "passcode", "password", "secret", "token"})
_URL_PASSWORD: Final = re.compile(r"(://[^/\s:@]*:)[^/\s]+@")
# What could move a terminal's cursor or begin a line of its own, line feeds and tabs left out.
_CONTROLS: Final = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029) if code not in (9, 10)
}
_FLUSH_LINES: Final = 256
_FLUSH_SECONDS: Final = 1.0
_json = json.JSONEncoder(separators=(",", ":"), default=str, skipkeys=True).encode


class Sink(Protocol):
    """Where lines end up."""

    def write(self, lines: str, /) -> object:
        """Write whole lines."""

    def close(self) -> None:
        """Write nothing more."""


class _Stream:
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, lines: str) -> None:
        self._stream.write(lines)
        self._stream.flush()

    def close(self) -> None:
        """Leave the stream open: it is the process's own."""


class _Rotated:
    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = LogFile(path.name, str(path.parent), max_bytes, maxRotatedFiles=backups)

    def write(self, lines: str) -> None:
        # Encoded here, since LogFile would count characters; "replace" because paths may hold surrogates.
        self._file.write(lines.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        self._file.close()


def open_sink(path: Path | None, max_bytes: int, backups: int) -> Sink:
    """Open ``path``, rotated at ``max_bytes`` with ``backups`` old ones kept, or standard output for None.

    Raises `OSError`.
    """
    if path is not None:
        return _Rotated(path, max_bytes, backups)
    # Not sys.stdout: once logging has begun Twisted makes each line printed there a log event.
    return _Stream(sys.__stdout__ or sys.stdout)


@implementer(ILogObserver)
class LogObserver:
    """Writes each event at or above its namespace's level to ``sink``, as a line of text or JSON.

    ``levels`` has the levels of namespaces and what lies below them; the longest prefix counts.
    """

    def __init__(self, sink: Sink, form: str = "text", level: str = "info", levels: Mapping[str, str] = {}) -> None:
        self._sink = sink
        self._write = _as_json if form == "json" else _as_text
        self._level = LogLevel.levelWithName(level)
        self._levels = {namespace: LogLevel.levelWithName(name) for namespace, name in levels.items()}
        self._known: dict[str, Any] = {}
        # Reentrant: a signal may come while its own thread writes a line, and its handler logs, too.
        self._lock = RLock()

    def __call__(self, event: LogEvent) -> None:
        """Write ``event``; called in whatever thread it happened."""
        level, namespace = event.get("log_level") or LogLevel.info, event.get("log_namespace") or "-"
        if level < self._threshold(namespace):
            return
        if not _SECRETS.isdisjoint(event):
            event = {name: "…" if name in _SECRETS else value for name, value in event.items()}
        moment = rfc3339(int(event["log_time"] * 1000))
        line = _URL_PASSWORD.sub(r"\1…@", self._write(moment, level.name, namespace, event))
        with self._lock:
            self._sink.write(line + "\n")

    def _threshold(self, namespace: str) -> Any:
        """Look up the level of ``namespace``, once for each; there are as many as modules that log."""
        if namespace not in self._known:
            parts = namespace.split(".")
            prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
            found = next((self._levels[each] for each in prefixes if each in self._levels), self._level)
            self._known[namespace] = found
        return self._known[namespace]


def _as_text(moment: str, level: str, namespace: str, event: LogEvent) -> str:
    message = formatEvent(event)
    if "log_failure" in event:
        message = f"{message}\n{_traceback(event['log_failure'])}" if message else _traceback(event["log_failure"])
    message = message.translate(_CONTROLS).replace("\n", "\n    ")
    return f"{moment} {level} {namespace} {message}"


def _as_json(moment: str, level: str, namespace: str, event: LogEvent) -> str:
    form = event.get("log_format")
    # Events of print() and of the old log module have their text in fields of Twisted's own.
    own = form is None or "{log_" in form
    fields = {} if own else {name: value for name, value in event.items() if not name.startswith("log_")}
    line = {"time": moment, "level": level, "logger": namespace, "event": formatEvent(event) if own else form}
    if fields:
        line["fields"] = fields
    if "log_failure" in event:
        line["failure"] = _traceback(event["log_failure"])
    return _json(line)


def _traceback(failure: Failure) -> str:
    return str(failure.getTraceback()).rstrip()


class _Bridge(logging.Handler):
    """Hands the standard library's records to Twisted, each under its logger's name."""

    def emit(self, record: logging.LogRecord) -> None:
        number = min(record.levelno, logging.CRITICAL) // 10 * 10
        names = {logging.INFO: "info", logging.WARNING: "warn", logging.ERROR: "error", logging.CRITICAL: "critical"}
        fields: dict[str, Any] = {"message": record.getMessage()}
        if record.exc_info and record.exc_info[1]:
            fields["log_failure"] = Failure(record.exc_info[1], record.exc_info[0], record.exc_info[2])
        level = LogLevel.levelWithName(names.get(number, "debug"))
        Logger(namespace=record.name).emit(level, "{message}", **fields)


def bridge(levels: Mapping[str, str]) -> None:
    """Let libraries that log by the standard library be seen: from "warn" on, or as ``levels`` has it by namespace."""
    root = logging.getLogger()
    if not any(isinstance(each, _Bridge) for each in root.handlers):
        root.addHandler(_Bridge())
    root.setLevel(logging.WARNING)
    for namespace, level in levels.items():
        logging.getLogger(namespace).setLevel(level.upper())


class AccessLog:
    """One line a request, gathered in memory and written once a second or when 256 have come together.

    ``open_it`` opens the sink when the log is started; ``now`` gives milliseconds since 1970.
    """

    log = Logger()

    def __init__(self, open_it: Callable[[], Sink], now: Callable[[], int], form: str = "text") -> None:
        self._open_it = open_it
        self._now = now
        self._json = form == "json"
        self._second, self._prefix = -1, ""
        self._lines: list[str] = []
        self._sink: Sink | None = None
        self._clock: IReactorTime | None = None
        self._due: IDelayedCall | None = None

    def start(self, clock: IReactorTime) -> None:
        """Open the sink; raises `OSError`."""
        self._sink = self._open_it()
        self._clock = clock

    def stop(self) -> None:
        """Write what is left and close the sink; what comes later is dropped."""
        self._flush()
        if self._sink is not None:
            self._sink.close()
        self._sink = self._clock = None

    def entry(
        self,
        address: str,
        caller: str,
        method: str,
        path: str,
        status: int,
        size: int,
        milliseconds: float,
        request: str,
    ) -> None:
        """Take note of an answered request: bytes sent, milliseconds taken, id; the query string is left out."""
        if self._clock is None:
            return
        moment, path, took = self._moment(), path.partition("?")[0], round(milliseconds, 1)
        if self._json:
            who = f'"address":{_json(address)},"caller":{_json(caller)},"method":{_json(method)},"path":{_json(path)}'
            what = f'"status":{status},"bytes":{size},"ms":{took},"request":{_json(request)}'
            self._lines.append(f'{{"time":"{moment}",{who},{what}}}')
        else:
            words = f"{_word(address)} {_word(caller)} {_word(method)} {_word(path)}"
            self._lines.append(f"{moment} {words} {status} {size} {took}ms {_word(request)}")
        if len(self._lines) >= _FLUSH_LINES:
            self._flush()
        elif self._due is None:
            self._due = self._clock.callLater(_FLUSH_SECONDS, self._flush)

    def _moment(self) -> str:
        """Give the time as text, its seconds formatted once for all requests of that second."""
        second, milliseconds = divmod(self._now(), 1000)
        if second != self._second:
            self._second, self._prefix = second, rfc3339(second * 1000)[:-4]
        return f"{self._prefix}{milliseconds:03d}Z"

    def _flush(self) -> None:
        if self._due is not None and self._due.active():
            self._due.cancel()
        self._due = None
        lines, self._lines = self._lines, []
        if not lines or self._sink is None:
            return
        try:
            self._sink.write("\n".join(lines) + "\n")
        except OSError as error:
            self.log.warn("{count} lines of the access log are lost: {reason}", count=len(lines), reason=str(error))


def _word(text: str) -> str:
    """Keep ``text`` one word of its line, whatever a caller put into it."""
    if text.isprintable() and " " not in text:
        return text or "-"
    return quote(text, safe="/:@!$&'()*+,;=%~", errors="surrogateescape")
