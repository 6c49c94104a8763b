"""The words and numbers of jobs."""

from __future__ import annotations

import signal

import pytest

from datahub.errors import InvalidRequest
from datahub.jobs.checking import first_word
from datahub.jobs.model import Limits, limits_of, reason_of, seconds_of, signal_name
from datahub.jobs.view import LOGS, text_of
from datahub.processes.runner import Ended


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (Ended(code=0), "process finished"),
        (Ended(code=2), "process finished with error: exit status 2"),
        (Ended(signal=11, core=True), "process finished with error: signal: segmentation fault (core dumped)"),
        (Ended(signal=15, cause="API"), "API"),
        (Ended(code=0, cause="timeout"), "timeout"),
        (Ended(code=0, cause="processes"), "limit of processes exceeded"),
        (Ended(error="No such file or directory: x"), "could not be executed: No such file or directory: x"),
        (Ended(lost="why"), "lost"),
    ],
)
def test_reasons(ended, reason):
    """The original's texts, and those for what it could not tell."""
    assert reason_of(ended) == reason


def test_signals_have_gos_names():
    """Clients of the original know them."""
    names = {"SIGHUP": "hangup", "SIGKILL": "killed", "SIGTERM": "terminated", "SIGPIPE": "broken pipe"}
    names |= {"SIGABRT": "aborted", "SIGUSR2": "user defined signal 2", "SIGXCPU": "CPU time limit exceeded"}
    names |= {"SIGSYS": "bad system call", "SIGCHLD": "child exited", "SIGWINCH": "window changed"}
    assert {name: signal_name(signal.Signals[name]) for name in names} == names
    assert signal_name(40) == "signal 40"


@pytest.mark.parametrize(("given", "seconds"), [(None, 30), (5, 5), (0.5, 0.5), ("7", 7), ("2 min", 120), ("1.5", 1.5)])
def test_seconds(given, seconds):
    """Numbers, or texts as in the configuration."""
    assert seconds_of("timeout", given, 30, 0.1) == seconds


@pytest.mark.parametrize("given", [0, -1, "soon", "", float("inf"), float("nan"), "1000 d", 1e300])
def test_no_seconds(given):
    """The text names the field and what would be right."""
    with pytest.raises(InvalidRequest, match=r"timeout is .*; it must be seconds"):
        seconds_of("timeout", given, 30, 0.1)


def test_limits():
    """One's own go over those of the configuration."""
    asked = Limits(memory="1 GiB", cpu_time="2 min", open_files=9)
    assert limits_of(asked, {"memory": 5, "processes": 7}) == {
        "memory": 2**30,
        "cpu_time": 120,
        "open_files": 9,
        "processes": 7,
    }
    with pytest.raises(InvalidRequest, match=r"limits.cpu_time is 'x'; it must be a time"):
        limits_of(Limits(cpu_time="x"), {})


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("ls -l", "ls"),
        ("\n /bin/true;x", "/bin/true"),
        ("a|b", "a"),
        ("f() { :; }", None),
        ("2>x ls", None),
        ("A=1 ls", None),
        ('"ls"', None),
        ("$X", None),
        ("(ls)", None),
        ("# nothing", None),
        ("é", None),
    ],
)
def test_first_word(command, word):
    """Only what bash takes as it stands is looked for."""
    assert first_word(command) == word


def test_logs_begin_with_a_whole_character():
    """Where they were cut; what is wrong in them is replaced byte by byte."""
    assert text_of("é".encode() * LOGS)[:2] == "éé"
    assert text_of(("é".encode() * LOGS)[1 : LOGS + 1])[:2] == "éé"
    assert text_of(b"\x80\x80a") == "\ufffd\ufffda"
