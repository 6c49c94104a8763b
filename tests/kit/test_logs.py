"""Lines of the logs: what they look like, what is left out, when they are written."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, globalLogPublisher
from twisted.python import log as old_log
from twisted.python.failure import Failure

from datahub.kit.logs import AccessLog, LogObserver, bridge, open_sink

NOON = 1_767_268_800_250  # 2026-01-01T12:00:00.250Z


class Lines:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.text = ""
        self.closed = False
        self.writes = 0

    def write(self, lines: str) -> None:
        self.text += lines
        self.writes += 1

    def close(self) -> None:
        self.closed = True


def written(form: str, event: str, level: str = "info", **fields: Any) -> str:
    """What the observer makes of one event of the namespace datahub.store."""
    sink = Lines()
    observer = LogObserver(sink, form, "debug")
    made: list[LogEvent] = []
    getattr(Logger("datahub.store", observer=made.append), level)(event, **fields)  # type: ignore[arg-type]  # it is one
    observer({**made[0], "log_time": NOON / 1000})
    return sink.text


def failure() -> Failure:
    """A failure with a traceback."""
    try:
        raise RuntimeError("no\nluck")
    except RuntimeError:
        return Failure()


def test_text_is_one_line() -> None:
    """Time, level, namespace, message."""
    assert (
        written("text", "moved {size} bytes", size=3) == "2026-01-01T12:00:00.250Z info datahub.store moved 3 bytes\n"
    )


def test_json_is_one_object() -> None:
    """The event's format and its fields apart, and nothing of Twisted's own."""
    line = written("json", "moved {size} bytes to {where}", level="warn", size=3, where=Path("/srv"))
    assert json.loads(line) == {
        "time": "2026-01-01T12:00:00.250Z",
        "level": "warn",
        "logger": "datahub.store",
        "event": "moved {size} bytes to {where}",
        "fields": {"size": 3, "where": "/srv"},
    }
    assert line.count("\n") == 1


def test_traceback_is_indented_below_its_line() -> None:
    """So no line of it looks like an event."""
    first, *rest = written("text", "copy failed", level="failure", failure=failure()).splitlines()
    assert first == "2026-01-01T12:00:00.250Z critical datahub.store copy failed"
    assert len(rest) > 2
    assert all(line.startswith("    ") for line in rest)
    assert "    luck" in rest


def test_traceback_is_text_in_json() -> None:
    """One field holds the whole of it."""
    line = json.loads(written("json", "copy failed", level="failure", failure=failure()))
    assert "RuntimeError: no\nluck" in line["failure"]
    assert "fields" not in line


@pytest.mark.parametrize("evil", ["\n2026 info forged", "\r", "\x1b[2J", "\x85", "\u2028", "\x00"])
def test_field_can_not_forge_a_line(evil: str) -> None:
    """Whatever stands in a field, there is one line that begins with a time, and no control character."""
    line = written("text", "name {name}", name=f"a{evil}b")
    assert [each[:4] for each in line.splitlines()] in (["2026"], ["2026", "    "])
    assert all(each.isprintable() for each in line.split("\n"))


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_left_out(form: str) -> None:
    """Neither a field that is named like a secret nor a password in a URL is written."""
    line = written(form, "{token} {url}", token="s3cret", url="amqp://hub:p@ss/w0rd@mq:5672/")
    line += written(form, "lost {url}", url="postgresql://hub:hunter2@db/datahub")
    assert "s3cret" not in line
    assert "hunter2" not in line
    assert "postgresql://hub:…@db/datahub" in line or "\\u2026@db/datahub" in line


def test_longest_prefix_decides_the_level() -> None:
    """A namespace takes the level of the nearest name above it, by whole parts."""
    sink = Lines()
    observer = LogObserver(sink, "text", "warn", {"datahub": "info", "datahub.store": "debug", "datahub.web": "error"})
    for namespace in ("datahub.store.engine", "datahub.storeroom", "datahub.web.app", "twisted.web"):
        for level in ("debug", "info", "warn", "error"):
            getattr(Logger(namespace, observer=observer), level)("x")
    seen = [tuple(line.split()[1:3]) for line in sink.text.splitlines()]
    assert seen == [
        *((level, "datahub.store.engine") for level in ("debug", "info", "warn", "error")),
        *((level, "datahub.storeroom") for level in ("info", "warn", "error")),
        ("error", "datahub.web.app"),
        *((level, "twisted.web") for level in ("warn", "error")),
    ]


def test_signal_handler_may_log_while_a_line_is_written() -> None:
    """Its line is written too: the thread that it interrupted must not wait for itself, or nothing would stop."""

    class Interrupted(Lines):
        def write(self, lines: str) -> None:
            super().write(lines)
            if self.writes == 1:
                signal.raise_signal(signal.SIGUSR1)

    sink = Interrupted()
    logger = Logger("datahub", observer=LogObserver(sink))
    before = signal.signal(signal.SIGUSR1, lambda *_: logger.info("in the handler"))
    try:
        logger.info("in the middle")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [line.partition("datahub ")[2] for line in sink.text.splitlines()] == ["in the middle", "in the handler"]


@pytest.fixture
def published() -> Iterator[Lines]:
    """What a JSON observer of all that is logged writes."""
    sink = Lines()
    observer = LogObserver(sink, "json", "debug")
    globalLogPublisher.addObserver(observer)
    yield sink
    globalLogPublisher.removeObserver(observer)


def test_old_log_module_keeps_its_text(published: Lines) -> None:
    """What libraries say by twisted.python.log is the event itself."""
    old_log.msg("from the old days")
    assert json.loads(published.text)["event"] == "from the old days"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The standard library's root logger, put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("pika.test").setLevel(logging.NOTSET)


def test_standard_library_is_bridged_once(published: Lines, root: logging.Logger) -> None:
    """Its loggers keep their names, levels and tracebacks, and asking twice does not double them."""
    bridge({})
    bridge({"pika.test": "info"})
    logging.getLogger("pika.test.channel").info("opened %s", 7)
    logging.getLogger("alembic").info("too chatty")
    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("sqlalchemy").exception("lost")
    first, second = map(json.loads, published.text.splitlines())
    assert (first["logger"], first["level"], first["fields"]) == ("pika.test.channel", "info", {"message": "opened 7"})
    assert (second["logger"], second["level"]) == ("sqlalchemy", "error")
    assert "OSError: gone" in second["failure"]


def test_file_is_rotated(tmp_path: Path) -> None:
    """A full file is put aside, and no more of them than asked are kept."""
    sink = open_sink(tmp_path / "log" / "app.log", max_bytes=100, backups=2)
    for number in range(10):
        sink.write(f"{number}" * 99 + "\n")
    sink.write("é\udc80\n")
    sink.close()
    assert sorted(each.name for each in (tmp_path / "log").iterdir()) == ["app.log", "app.log.1", "app.log.2"]
    assert (tmp_path / "log" / "app.log").read_text("utf-8") == "é\\udc80\n"
    assert (tmp_path / "log" / "app.log.1").read_text("utf-8") == "9" * 99 + "\n"


class Access:
    """An access log on a clock, at noon."""

    def __init__(self, form: str = "text") -> None:
        self.sink, self.clock = Lines(), Clock()
        self.log = AccessLog(lambda: self.sink, lambda: NOON, form)
        self.log.start(self.clock)

    def entry(self, path: str = "/transfers/1", caller: str = "alice", request: str = "r1") -> None:
        self.log.entry("127.0.0.1", caller, "GET", path, 200, 17, 12.34, request)


def test_access_line_has_no_query() -> None:
    """All fields in one line, and nothing from behind the question mark."""
    access = Access()
    access.entry("/messages/7?passcode=s3cret")
    access.clock.advance(1)
    assert access.sink.text == "2026-01-01T12:00:00.250Z 127.0.0.1 alice GET /messages/7 200 17 12.3ms r1\n"


def test_access_line_as_json() -> None:
    """The same fields by name."""
    access = Access("json")
    access.entry('/a"b\n\udc80?x', caller="Å b")
    access.log.stop()
    assert json.loads(access.sink.text) == {
        "time": "2026-01-01T12:00:00.250Z",
        "address": "127.0.0.1",
        "caller": "Å b",
        "method": "GET",
        "path": '/a"b\n\udc80',
        "status": 200,
        "bytes": 17,
        "ms": 12.3,
        "request": "r1",
    }
    assert access.sink.text.count("\n") == 1


@pytest.mark.parametrize("evil", ["\n", "\r\n", " ", "\x1b", "\u2028", "\x85", "\udcff"])
def test_path_can_not_forge_an_access_line(evil: str) -> None:
    """One request is one line of nine words, whatever a caller sends."""
    access = Access()
    access.entry(f"/a{evil}b", caller=f"al{evil}ice", request=f"r{evil}1")
    access.entry("", caller="", request="")
    access.log.stop()
    first, second = access.sink.text.removesuffix("\n").split("\n")
    assert len(first.split(" ")) == len(second.split(" ")) == 9
    assert first.isprintable()


def test_access_lines_are_written_once_a_second() -> None:
    """Requests of one second are one write, and an idle log has no timer."""
    access = Access()
    for _ in range(10):
        access.entry()
    assert access.sink.writes == 0
    access.clock.advance(1)
    assert (access.sink.writes, access.sink.text.count("\n")) == (1, 10)
    assert not access.clock.getDelayedCalls()


def test_many_access_lines_do_not_wait() -> None:
    """At 256 lines they are written at once."""
    access = Access()
    for _ in range(300):
        access.entry()
    assert (access.sink.writes, access.sink.text.count("\n")) == (1, 256)
    access.log.stop()
    assert access.sink.text.count("\n") == 300
    assert access.sink.closed
    assert not access.clock.getDelayedCalls()


def test_access_log_that_is_not_running_takes_nothing() -> None:
    """A request that ends after the stop neither fails nor leaves a timer."""
    access = Access()
    access.log.stop()
    access.entry()
    assert access.sink.text == ""
    assert not access.clock.getDelayedCalls()


def test_full_disk_loses_access_lines_only(published: Lines) -> None:
    """A sink that fails is told of in the other log, and the next lines are tried again."""
    access = Access()

    def full(lines: str) -> None:
        raise OSError(28, "No space left on device")

    access.sink.write = full  # type: ignore[method-assign]  # a disk that is full
    access.entry()
    access.clock.advance(1)
    assert json.loads(published.text)["fields"] == {"count": 1, "reason": "[Errno 28] No space left on device"}
    del access.sink.write  # and has room again
    access.entry()
    access.clock.advance(1)
    assert access.sink.text.count("\n") == 1
