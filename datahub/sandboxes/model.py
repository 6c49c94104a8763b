"""Tasks, agents and executors as far as a sandbox needs them, and the rules by which a name means one of them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from datahub.errors import InvalidRequest, NotFound

__all__ = ["ENDED", "Address", "Executor", "Several", "Task", "app_of", "best_first", "choose", "inside", "names_of"]

ENDED: Final = frozenset(
    f"TASK_{state}"
    for state in ("FINISHED", "FAILED", "KILLED", "ERROR", "LOST", "DROPPED", "GONE", "GONE_BY_OPERATOR")
)
AWAY: Final = frozenset({"TASK_UNREACHABLE", "TASK_UNKNOWN"})
CHRONOS: Final = "ChronosTask:"
UUID: Final = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
# Marathon's ids: path, instance, container ("_app" for what is no pod), and how often it was begun anew.
MARATHON: Final = re.compile(
    rf"(?P<path>.+)\.(?:instance|marathon)-{UUID}\.(?P<container>[^.]+)(?:\.[0-9]+)?", re.DOTALL
)
POD: Final = re.compile(rf"(?:instance|marathon)-.+\.{UUID}", re.DOTALL)
LONGEST: Final = 4096


class Task(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One run; times in seconds since 1970, 0 if unknown; ``containers`` from the outermost in."""

    id: str
    name: str
    framework: str
    framework_name: str
    executor: str
    agent: str
    state: str
    begun: float
    changed: float
    containers: tuple[str, ...]

    @property
    def ended(self) -> bool:
        """Whether nothing more will be written."""
        return self.state in ENDED

    @property
    def active(self) -> bool:
        """Whether it runs, or is about to, as far as the master knows."""
        return self.state not in ENDED and self.state not in AWAY

    @property
    def executor_id(self) -> str:
        """What its executor is called on the agent: a task without one of its own has one of its name."""
        return self.executor or self.id

    @property
    def in_pod(self) -> bool:
        """Whether its executor's name is that of a Marathon pod."""
        return POD.fullmatch(self.executor) is not None


class Address(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where an agent is: its host by name and by address, and its port; 0 if the master does not tell."""

    id: str
    hosts: tuple[str, ...]
    port: int


class Executor(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One run of an executor on its agent; ``position`` grows with time."""

    id: str
    container: str
    directory: str
    kind: str
    position: int


class Several(Exception):
    """A name means several different tasks: ``tasks`` has one of each."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        super().__init__("several tasks have that name")
        self.tasks = tuple(tasks)


def app_of(task_id: str, name: str) -> str:
    """What all runs of one thing have in common; a pod's tasks are named after their containers alone."""
    marathon = MARATHON.fullmatch(task_id)
    if marathon and marathon["container"] != "_app":
        return f"{marathon['path']}/{name}"
    return name


def names_of(task_id: str, name: str) -> Iterator[tuple[str, str]]:
    """By what a task is found, and by which rule: its id, a part of its path, or its Chronos job."""
    yield "id", task_id
    if name.startswith(CHRONOS):
        yield "job", name.removeprefix(CHRONOS)
        yield "job", name
        return
    marathon = MARATHON.fullmatch(task_id)
    parts = {name, *name.split("."), *(marathon["path"].split("_") if marathon else ())}
    yield from (("part", part) for part in sorted(parts) if part)


def best_first(tasks: Iterable[Task]) -> list[Task]:
    """Runs of one thing, first the one that is meant when none is named: the newest active one, else the newest."""
    # By their ids at last: which one it is must not depend on the order in which a master happens to tell of them.
    return sorted(tasks, key=lambda task: (task.active, task.begun, task.changed, task.id), reverse=True)


def choose(tasks: Iterable[Task], run: str | None) -> tuple[Task, int]:
    """The one of ``tasks`` that is meant, by its id ``run`` if that is given, and how many of its like are active.

    Raises `Several` if they are runs of different things, `NotFound` if none has that id.
    """
    apps: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        if run in (None, task.id):
            apps.setdefault((task.framework_name, app_of(task.id, task.name)), []).append(task)
    if not apps:
        raise NotFound("Not found", code="sandbox.not_found")
    found = [best_first(each)[0] for each in apps.values()]
    if len({task.id for task in found}) > 1:
        raise Several(sorted(found, key=lambda task: task.id))
    return best_first(found)[0], len({task.id for each in apps.values() for task in each if task.active})


def inside(filename: str, field: str = "filename") -> str:
    """``filename`` as a path relative to the sandbox; raises `InvalidRequest` if it leaves it."""
    path = posixpath.normpath(filename.lstrip("/")) if filename.strip("/") else ""
    if path == ".." or path.startswith("../"):
        raise InvalidRequest(
            f"{field} {filename[:200]!r} is outside of the sandbox", field=field, code="sandbox.outside"
        )
    if len(path.encode()) > LONGEST:
        raise InvalidRequest(f"{field} is longer than {LONGEST} bytes", field=field)
    return "" if path == "." else path


def newest_executor(found: Iterable[Executor], task: Task) -> Executor | None:
    """The run of an executor that ``task`` was in: by its container, else the newest."""
    ordered = sorted(found, key=lambda each: each.position)
    same = [each for each in ordered if task.containers and each.container == task.containers[0]]
    return (same or ordered or [None])[-1]  # type: ignore[list-item]  # None is what nothing gives


def folders_of(executor: Executor, task: Task) -> tuple[str, ...]:
    """Where the files of ``task`` are, the likeliest first."""
    if executor.kind != "DEFAULT":
        return (executor.directory,)
    nested = "".join(f"/containers/{container}" for container in task.containers[1:])
    by_container = (executor.directory + nested,) if nested else ()
    return (f"{executor.directory}/tasks/{task.id}", *by_container)


def virtual_folder(task: Task) -> str:
    """Where an agent shows the newest run of the executor under a name that needs no look at its state (from 1.5)."""
    folder = f"/frameworks/{task.framework}/executors/{task.executor_id}/runs/latest"
    return f"{folder}/tasks/{task.id}" if task.in_pod else folder


def version_of(text: str) -> tuple[int, ...]:
    """A Mesos version such as "1.11.0-rc1" as numbers."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", text)[:3])


def summary(task: Task) -> Mapping[str, object]:
    """A run in a few words, for a log line."""
    return {"task": task.id, "state": task.state, "agent": task.agent}
