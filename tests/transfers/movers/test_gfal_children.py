"""The children of the mover ``gfal:``: what they are told, and how they end."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError
from twisted.logger import capturedLogs

from datahub.kit.aio import start
from datahub.transfers.grid.carrier import next_order
from datahub.transfers.grid.copying import DYING_WITH_US
from datahub.transfers.movers import carriers
from datahub.transfers.movers.carriers import Carriers, Lines
from datahub.transfers.movers.gfal import COMMAND
from tests.waiting import until

pytestmark = pytest.mark.timeout(60)


def pid_in(path: Path) -> int:
    """Give the number that a process has written, 0 for none yet."""
    return int(path.read_text() or "0") if path.exists() else 0


def test_an_order_comes_with_all_its_entries():
    """Of a list that was cut off nothing is copied."""
    lines = ['{"do": "copy", "entries": 2}\n', '{"path": "a"}\n', '{"path": "b"}\n']
    assert next_order(iter(lines)) == {"do": "copy", "entries": [{"path": "a"}, {"path": "b"}]}
    assert next_order(iter(lines[:2])) is None
    assert next_order(iter(['{"do": "find"}\n'])) == {"do": "find", "entries": []}
    assert next_order(iter([])) is None


def test_a_child_whose_hub_has_died_before_it_could_hear_of_it():
    """It obeys nobody: its parent is not the hub that has begun it."""
    order = b'{"do": "discard"}\n'
    ended = subprocess.run([*COMMAND, "1"], input=order, capture_output=True, check=False, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, b"", b"the hub has ended\n")


@pytest.mark.parametrize("ours", [True, False])
def test_what_a_child_begins_dies_with_it(ours):
    """It does not even begin when the child has died before."""
    parent = os.getpid() if ours else 1
    ended = subprocess.run([*DYING_WITH_US, str(parent), "echo", "a b"], capture_output=True, check=False, timeout=30)
    assert (ended.returncode == 0, ended.stdout) == (ours, b"a b\n" if ours else b"")


READS = """
import json
number = json.loads(input())["entries"]
last = [json.loads(input()) for _ in range(number)][-1]
print(json.dumps({"done": {"number": number, "last": last}}), flush=True)
input()
"""
REFUSES = """
input()
print('{"fault": {"text": "no", "where": "here", "errno": 0, "kind": ""}}', flush=True)
import time; time.sleep(60)
"""


@pytest_twisted.ensureDeferred
async def test_a_long_list(reactor):
    """It is larger than all buffers on the way; of one that nobody wants to read nothing is left behind."""
    entries = Lines()
    for number in range(30_000):
        entries.add({"path": f"{number:05}/" + 150 * "x"})
    some = Carriers([COMMAND[0], "-c", READS], os.environ, lambda: None, reactor)
    for _ in range(2):
        told: Any = await some.obey({"do": "copy"}, lambda _: None, entries=entries)
        assert (told["number"], told["last"]["path"][:6]) == (30_000, "29999/")
        await some.stop()
    some._command = [COMMAND[0], "-c", REFUSES]
    told = await some.obey({"do": "copy"}, lambda _: None, entries=entries)
    assert told.text == "no"
    assert not some._all


STAYS = """
import time
input()
print('{"done": {}}', flush=True)
time.sleep(60)
"""


@pytest_twisted.ensureDeferred
async def test_a_process_that_stays_though_it_has_nothing_to_do(reactor, monkeypatch):
    """It is let go of when it was idle for long, and killed when it does not go."""
    monkeypatch.setattr(carriers, "IDLE", 0.1)
    monkeypatch.setattr(carriers, "LAST_WAIT", 0.2)
    some = Carriers([COMMAND[0], "-c", STAYS], os.environ, lambda: None, reactor)
    assert await some.obey({"do": "copy"}, lambda _: None) == {}
    assert some._all
    await until(lambda: not some._all, "nothing of it is left")


HELD = """
import subprocess, sys, time
kept = subprocess.Popen(["sleep", "60"], start_new_session=True)
open(sys.argv[1], "w").write(str(kept.pid))
time.sleep(60)
"""


@pytest_twisted.ensureDeferred
async def test_a_process_that_does_not_go(reactor, tmp_path, monkeypatch):
    """Something that nobody can kill holds its pipes: that is logged, and nobody waits for it any longer."""
    monkeypatch.setattr(carriers, "LAST_WAIT", 0.5)
    number = tmp_path / "number"
    some = Carriers([COMMAND[0], "-c", HELD, str(number)], os.environ, lambda: None, reactor)
    obeying = start(some.obey({"do": "copy"}, lambda _: None))
    await until(lambda: pid_in(number), "it runs", 30)
    before = time.monotonic()
    with capturedLogs() as events:
        obeying.cancel()
        with pytest.raises(CancelledError):
            await obeying
    assert time.monotonic() - before < 20
    (told,) = [each for each in events if "has not gone within" in each.get("log_format", "")]
    assert (told["number"] > 1, told["seconds"]) == (True, 0.5)
    os.kill(pid_in(number), 9)
    await until(lambda: not some._all, "nothing of it is left")
    await some.stop()
