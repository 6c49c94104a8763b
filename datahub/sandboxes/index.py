"""The states of masters and agents, made small: from tens of MB of JSON to a table that is looked up in place.

This module is also a program, ``python -m datahub.sandboxes.index master``: state in, index out. It imports no Twisted,
so that it starts quickly.

Layout: magic, number of keys and length of the version (4 bytes each), version, a table sorted by hash with 16 bytes a
key (8 of BLAKE2, 8 of offset), and behind it the records, and for each key its name with the offsets of its records;
each of these is a length and msgpack.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from mmap import mmap
from operator import attrgetter
from typing import Any, Final, TypeVar

import msgspec

from datahub.sandboxes.model import Address, Executor, Task, names_of

__all__ = ["AGENT", "BAD", "MASTER", "Index", "Unreadable", "build"]

MASTER: Final = "master"
AGENT: Final = "agent"
BAD: Final = 3
"""The exit status of the program when what it was given is no state; the reason is on stderr."""

MAGIC: Final = b"DHX1"
HEAD: Final = struct.Struct(">4sII")
ENTRY: Final = struct.Struct(">8sQ")
LENGTH: Final = struct.Struct(">I")
# More runs of one name than this are cut off, the oldest ones: no look-up is to take long.
MOST: Final = 2000

Record = TypeVar("Record")


class Unreadable(Exception):
    """What a peer gave as its state is none."""


class _Shape(msgspec.Struct, gc=False):
    """What is taken of a JSON object; the rest is passed over."""


class _ContainerId(_Shape):
    value: str = ""
    parent: _ContainerId | None = None


class _ContainerStatus(_Shape):
    container_id: _ContainerId | None = None


class _Status(_Shape):
    timestamp: float = 0.0
    container_status: _ContainerStatus | None = None


class TaskJson(_Shape):
    """A task as masters tell of it."""

    id: str = ""
    name: str = ""
    framework_id: str = ""
    executor_id: str = ""
    slave_id: str = ""
    state: str = ""
    statuses: list[_Status] = []


class _Framework(_Shape):
    id: str = ""
    name: str = ""
    tasks: list[TaskJson] = []
    unreachable_tasks: list[TaskJson] = []
    completed_tasks: list[TaskJson] = []


class SlaveJson(_Shape):
    """An agent as masters tell of it."""

    id: str = ""
    hostname: str = ""
    port: float | None = None
    pid: str = ""


class _Master(_Shape):
    version: str
    frameworks: list[_Framework]
    slaves: list[SlaveJson] = []
    recovered_slaves: list[SlaveJson] = []
    completed_frameworks: list[_Framework] = []


class _Named(_Shape):
    id: str = ""


class _Executor(_Shape):
    id: str = ""
    container: str = ""
    directory: str = ""
    type: str = ""
    tasks: list[_Named] = []
    queued_tasks: list[_Named] = []
    completed_tasks: list[_Named] = []


class _AgentFramework(_Shape):
    id: str = ""
    executors: list[_Executor] = []
    completed_executors: list[_Executor] = []


class _Agent(_Shape):
    version: str
    frameworks: list[_AgentFramework]
    completed_frameworks: list[_AgentFramework] = []


class _Posting(msgspec.Struct, array_like=True, gc=False):
    """A key, and where its records are."""

    key: str
    records: list[int]


class Index:
    """A state, looked up in place."""

    def __init__(self, blob: bytes | mmap) -> None:
        magic, self._count, length = HEAD.unpack_from(blob)
        if magic != MAGIC:
            raise ValueError("this is no index")
        self._blob = memoryview(blob)
        self._table = HEAD.size + length
        self.version = bytes(self._blob[HEAD.size : self._table]).decode()

    def tasks(self, name: str) -> list[Task]:
        """The runs that ``name`` means, by the first rule that finds any."""
        for rule in ("id", "part", "job"):
            found = self._find(rule, name, Task)
            if found:
                return found
        return []

    def address(self, agent: str) -> Address | None:
        """Where an agent is, if the master still knows it."""
        return next(iter(self._find("agent", agent, Address)), None)

    def executors(self, framework: str, executor: str) -> list[Executor]:
        """The runs of an executor."""
        return self._find("executor", f"{framework}/{executor}", Executor)

    def executors_of_task(self, framework: str, task: str) -> list[Executor]:
        """The runs of executors that tell of a task."""
        return self._find("task", f"{framework}/{task}", Executor)

    def _find(self, kind: str, name: str, shape: type[Record]) -> list[Record]:
        key = f"{kind}:{name}"
        wanted, low, high = _hash(key), 0, self._count
        while low < high:
            middle = (low + high) // 2
            place = self._table + middle * ENTRY.size
            if bytes(self._blob[place : place + 8]) < wanted:
                low = middle + 1
            else:
                high = middle
        while low < self._count:
            found, offset = ENTRY.unpack_from(self._blob, self._table + low * ENTRY.size)
            if found != wanted:
                break
            posting = self._read(offset, _Posting)
            if posting.key == key:
                return [self._read(each, shape) for each in posting.records]
            low += 1
        return []

    def _read(self, offset: int, shape: type[Record]) -> Record:
        (length,) = LENGTH.unpack_from(self._blob, offset)
        start = offset + LENGTH.size
        return msgspec.msgpack.decode(self._blob[start : start + length], type=shape)


def build(kind: str, state: bytes) -> bytes:
    """Make the index of a master's or an agent's state; raises `Unreadable`."""
    if kind == MASTER:
        master = _decoded(state, _Master)
        return _packed(master.version, _keys_of_master(master))
    agent = _decoded(state, _Agent)
    return _packed(agent.version, _keys_of_agent(agent))


def task_of(task: TaskJson, framework_name: str) -> Task:
    """A task of a master's JSON, as it is kept."""
    times = [status.timestamp for status in task.statuses] or [0.0]
    return Task(
        task.id,
        task.name,
        task.framework_id,
        framework_name,
        task.executor_id,
        task.slave_id,
        task.state,
        times[0],
        max(times),
        _containers(task),
    )


def address_of(slave: SlaveJson) -> Address:
    """An agent of a master's JSON; before 1.2 its port is in the ``pid`` alone."""
    host, _, port = slave.pid.rpartition("@")[2].rpartition(":")
    hosts = dict.fromkeys(each for each in (slave.hostname, host.strip("[]")) if each)
    return Address(slave.id, tuple(hosts), int(port) if port.isdigit() else int(slave.port or 0))


def _decoded(state: bytes, shape: type[Record]) -> Record:
    try:
        return msgspec.json.decode(state, type=shape)
    except UnicodeDecodeError:
        pass
    except msgspec.ValidationError as error:
        raise Unreadable(f"it is not the JSON of a state ({error})") from None
    except msgspec.DecodeError:
        raise Unreadable("it is not JSON") from None
    try:
        # A label in some other encoding than UTF-8 is no reason to serve nobody.
        return msgspec.json.decode(state.decode("utf-8", "replace"), type=shape)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"it is not the JSON of a state ({error})") from None


def _containers(task: TaskJson) -> tuple[str, ...]:
    """The containers of the last status that tells of any, from the outermost in."""
    for status in reversed(task.statuses):
        innermost = status.container_status.container_id if status.container_status is not None else None
        if innermost is not None:
            return tuple(reversed([each.value for each in _outwards(innermost)]))
    return ()


def _outwards(container: _ContainerId | None) -> Iterator[_ContainerId]:
    while container is not None:
        yield container
        container = container.parent


def _keys_of_master(master: _Master) -> dict[str, list[Any]]:
    keys: dict[str, list[Any]] = {}
    for framework in (*master.frameworks, *master.completed_frameworks):
        for each in (*framework.tasks, *framework.unreachable_tasks, *framework.completed_tasks):
            task = task_of(each, framework.name)
            for rule, name in names_of(task.id, task.name):
                keys.setdefault(f"{rule}:{name}", []).append(task)
    for tasks in keys.values():
        tasks.sort(key=attrgetter("active", "begun", "changed"), reverse=True)
        del tasks[MOST:]
    for slave in (*master.recovered_slaves, *master.slaves):
        keys[f"agent:{slave.id}"] = [address_of(slave)]
    return keys


def _keys_of_agent(agent: _Agent) -> dict[str, list[Any]]:
    keys: dict[str, list[Any]] = {}
    for framework, number, each in _executors(agent):
        executor = Executor(each.id, each.container, each.directory, each.type, number)
        keys.setdefault(f"executor:{framework}/{each.id}", []).append(executor)
        for task in (*each.tasks, *each.queued_tasks, *each.completed_tasks):
            keys.setdefault(f"task:{framework}/{task.id}", []).append(executor)
    return keys


def _executors(agent: _Agent) -> Iterator[tuple[str, int, _Executor]]:
    """All executors with their framework, those that have ended first: they are older."""
    number = 0
    for kind in ("completed_executors", "executors"):
        for framework in (*agent.completed_frameworks, *agent.frameworks):
            for each in getattr(framework, kind):
                number += 1
                yield framework.id, number, each


def _packed(version: str, keys: dict[str, list[Any]]) -> bytes:
    hashed = sorted((_hash(key), key) for key in keys)
    name = version.encode()
    heap = _Heap(HEAD.size + len(name) + ENTRY.size * len(hashed))
    distinct = {id(each): each for found in keys.values() for each in found}
    places = {number: heap.put(each) for number, each in distinct.items()}
    entries = [
        ENTRY.pack(digest, heap.put(_Posting(key, [places[id(each)] for each in keys[key]]))) for digest, key in hashed
    ]
    return b"".join((HEAD.pack(MAGIC, len(hashed), len(name)), name, *entries, *heap.parts))


class _Heap:
    """What is put behind the table, from the offset ``end`` on."""

    def __init__(self, end: int) -> None:
        self.parts: list[bytes] = []
        self._end = end
        self._encode = msgspec.msgpack.Encoder().encode

    def put(self, value: object) -> int:
        """Append ``value``; gives its offset."""
        data, offset = self._encode(value), self._end
        self.parts += (LENGTH.pack(len(data)), data)
        self._end += LENGTH.size + len(data)
        return offset


def _hash(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def main(arguments: Iterable[str], read: Callable[[], bytes], write: Callable[[bytes], object]) -> int:
    """Be the program; gives the exit status."""
    (kind,) = arguments
    try:
        write(build(kind, read()))
    except Unreadable as error:
        sys.stderr.write(str(error)[:500])
        return BAD
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdin.buffer.read, sys.stdout.buffer.write))
