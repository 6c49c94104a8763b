"""What is asked of Linux about processes: who is below whom, and that nobody else is hit."""

from __future__ import annotations

import os
import signal
import subprocess

from datahub.processes.kernel import Process, send_signal, start_of, tree


def test_a_process_that_has_the_number_of_another_is_spared() -> None:
    """A number is used again: with another start it is another process."""
    with subprocess.Popen(["sleep", "60"]) as child:
        now = start_of(child.pid)
        send_signal([Process(child.pid, child.pid, now - 1)], signal.SIGKILL)
        assert child.poll() is None
        send_signal([Process(child.pid, child.pid, now)], signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL


def test_one_that_has_gone_is_no_error() -> None:
    """It was to be ended anyway."""
    with subprocess.Popen(["true"]) as child:
        now = start_of(child.pid)
    send_signal([Process(child.pid, child.pid, now)], signal.SIGKILL)


def test_the_tree_has_all_that_are_below() -> None:
    """Children and theirs, except below those that are left out."""
    command = ["bash", "-c", "sleep 60 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        sleeper = int(child.stdout.readline())
        assert {child.pid, sleeper} <= {each.pid for each in tree(os.getpid())}
        assert {child.pid, sleeper}.isdisjoint(each.pid for each in tree(os.getpid(), {child.pid}))
        send_signal(tree(child.pid), signal.SIGKILL)
        child.kill()
