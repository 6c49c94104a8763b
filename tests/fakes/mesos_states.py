"""States to put into a fake Mesos: recorded ones, and made ones whose shapes are those of the versions they name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

__all__ = [
    "AGENT",
    "FRAMEWORK",
    "agent_state",
    "directory",
    "executor",
    "framework",
    "master_state",
    "recorded",
    "task",
]

RECORDED = Path(__file__).parent / "recorded"
AGENT = "5d1a3b1e-9f0c-4bd0-8d2a-6a0f4b1c7e11-S0"
FRAMEWORK = "5d1a3b1e-9f0c-4bd0-8d2a-6a0f4b1c7e11-0000"
WORK = "/var/lib/mesos/slave"
_times = count(1_600_000_000)


def recorded(name: str) -> dict[str, Any]:
    """A state as a real cluster gave it."""
    found: dict[str, Any] = json.loads((RECORDED / name).read_bytes())
    return found


def task(
    task_id: str,
    name: str,
    state: str = "TASK_RUNNING",
    *,
    executor_id: str = "",
    agent: str = AGENT,
    framework_id: str = FRAMEWORK,
    times: Iterable[float] | None = None,
    container: str | None = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """A task as a master of 1.5 and later tells of it."""
    moments = [float(next(_times))] if times is None else list(times)
    status: dict[str, Any] = {}
    if container is not None:
        chain: dict[str, Any] = {"value": container, **({"parent": {"value": parent}} if parent else {})}
        status = {"container_status": {"container_id": chain}}
    states = ["TASK_STARTING", "TASK_RUNNING", state][-len(moments) :] if moments else []
    return {
        "id": task_id,
        "name": name,
        "framework_id": framework_id,
        "executor_id": executor_id,
        "slave_id": agent,
        "state": state,
        "resources": {"cpus": 0.1, "mem": 32.0},
        "role": "*",
        "statuses": [{"state": each, "timestamp": at, **status} for each, at in zip(states, moments, strict=True)],
    }


def framework(
    framework_id: str = FRAMEWORK,
    name: str = "marathon",
    tasks: Iterable[Mapping[str, Any]] = (),
    completed: Iterable[Mapping[str, Any]] = (),
    unreachable: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """A framework with its tasks."""
    return {
        "id": framework_id,
        "name": name,
        "tasks": list(tasks),
        "unreachable_tasks": list(unreachable),
        "completed_tasks": list(completed),
        # One that the hub may not see is empty.
        "executors": [{}],
    }


def master_state(
    frameworks: Iterable[Mapping[str, Any]],
    completed: Iterable[Mapping[str, Any]] = (),
    agents: Iterable[str] = (AGENT,),
    version: str = "1.11.0",
) -> dict[str, Any]:
    """A master's state."""
    slaves = [
        {"id": each, "hostname": "agent.invalid", "port": 5051, "pid": "slave(1)@192.0.2.1:5051", "active": True}
        for each in agents
    ]
    return {
        "version": version,
        "hostname": "master.invalid",
        "slaves": slaves,
        "recovered_slaves": [],
        "frameworks": list(frameworks),
        "completed_frameworks": list(completed),
        "orphan_tasks": [],
        "unregistered_frameworks": [],
    }


def directory(executor_id: str, container: str, agent: str = AGENT, framework_id: str = FRAMEWORK) -> str:
    """Where Mesos puts the sandbox of an executor."""
    return f"{WORK}/slaves/{agent}/frameworks/{framework_id}/executors/{executor_id}/runs/{container}"


def executor(
    executor_id: str,
    container: str,
    *,
    kind: str | None = None,
    tasks: Iterable[str] = (),
    completed: Iterable[str] = (),
    agent: str = AGENT,
    framework_id: str = FRAMEWORK,
) -> dict[str, Any]:
    """An executor as an agent tells of it; ``kind`` is DEFAULT, CUSTOM, or None before 1.1."""
    return {
        "id": executor_id,
        "name": f"Command Executor (Task: {executor_id}) (Command: sh -c 'true')",
        "source": executor_id,
        "container": container,
        "directory": directory(executor_id, container, agent, framework_id),
        "resources": {},
        **({"type": kind} if kind else {}),
        "tasks": [{"id": each, "name": each} for each in tasks],
        "queued_tasks": [],
        "completed_tasks": [{"id": each, "name": each} for each in completed],
    }


def agent_state(
    executors: Iterable[Mapping[str, Any]] = (),
    completed: Iterable[Mapping[str, Any]] = (),
    *,
    gone: Iterable[Mapping[str, Any]] = (),
    gone_framework: str = "",
    agent: str = AGENT,
    framework_id: str = FRAMEWORK,
    version: str = "1.11.0",
) -> dict[str, Any]:
    """An agent's state with one framework, and one that is completed if ``gone`` has executors."""
    present = {"id": framework_id, "executors": list(executors), "completed_executors": list(completed)}
    past = {"id": gone_framework, "executors": [], "completed_executors": list(gone)}
    return {
        "version": version,
        "id": agent,
        "pid": "slave(1)@192.0.2.1:5051",
        "hostname": "agent.invalid",
        "flags": {"work_dir": WORK},
        "frameworks": [present],
        "completed_frameworks": [past] if gone_framework else [],
    }
