"""States as tables: what goes in is found again, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahub.sandboxes.index import AGENT, BAD, MASTER, Index, Unreadable, build, main
from tests.fakes.mesos_states import agent_state, executor, framework, master_state, task

NAMES = st.lists(st.text(min_size=1, max_size=30), max_size=40, unique=True)


@given(names=NAMES)
def test_every_task_is_found(names: list[str]) -> None:
    """By its id, whatever characters that has."""
    state = master_state([framework(tasks=[task(f"id {name}", "app") for name in names])])
    index = Index(build(MASTER, json.dumps(state).encode()))
    assert [[each.id for each in index.tasks(f"id {name}")] for name in names] == [[f"id {name}"] for name in names]
    assert index.tasks("id") == []
    assert len(index.tasks("app")) == len(names)


def test_agents() -> None:
    """Executors are found by their name and by their tasks, completed ones before present ones."""
    state = agent_state([executor("e", "new", tasks=["t"])], [executor("e", "old", completed=["u"])])
    index = Index(build(AGENT, json.dumps(state).encode()))
    fw = state["frameworks"][0]["id"]
    assert [each.container for each in index.executors(fw, "e")] == ["old", "new"]
    assert [each.container for each in index.executors_of_task(fw, "u")] == ["old"]
    assert index.executors("other", "e") == []
    assert index.version == "1.11.0"


@pytest.mark.parametrize(
    ("slave", "hosts", "port"),
    [
        ({"hostname": "h", "port": 5051, "pid": "slave(1)@10.0.0.1:5052"}, ("h", "10.0.0.1"), 5052),
        ({"hostname": "h", "pid": "slave(1)@10.0.0.1:5051"}, ("h", "10.0.0.1"), 5051),
        ({"hostname": "h", "port": 5051.0}, ("h",), 5051),
        ({"hostname": "h", "pid": "slave(1)@[::1]:5051"}, ("h", "::1"), 5051),
        ({}, (), 0),
    ],
)
def test_addresses(slave: dict[str, object], hosts: tuple[str, ...], port: int) -> None:
    """A port is in the pid, or beside it; a host has its name and its address."""
    state = {"version": "1", "frameworks": [], "slaves": [{"id": "S0", **slave}]}
    address = Index(build(MASTER, json.dumps(state).encode())).address("S0")
    assert address is not None
    assert (address.hosts, address.port) == (hosts, port)


@pytest.mark.parametrize(
    "state",
    [b"", b"<html>", b"[]", b"{}", b'{"version":1,"frameworks":[]}', b'{"version":"1","frameworks":{}}', b"\xff"],
)
def test_what_is_no_state(state: bytes) -> None:
    """It is said to be none."""
    with pytest.raises(Unreadable):
        build(MASTER, state)


def test_program(capsys: pytest.CaptureFixture[str]) -> None:
    """It writes the index, or why there is none."""
    out: list[bytes] = []
    assert main([MASTER], lambda: json.dumps(master_state([])).encode(), out.append) == 0
    assert Index(b"".join(out)).version == "1.11.0"
    assert main([AGENT], lambda: b"nonsense", out.append) == BAD
    assert "not JSON" in capsys.readouterr().err


def test_something_else_is_no_index() -> None:
    """What another program wrote is not looked into."""
    with pytest.raises(ValueError, match="no index"):
        Index(b"x" * 100)
