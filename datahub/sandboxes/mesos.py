"""Mesos: which task a name means, on which agent it is, and in which folder there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import msgspec
from twisted.logger import Logger

from datahub.errors import Gone, NotFound, UpstreamFault, UpstreamSilent
from datahub.kit.sharing import Shared
from datahub.sandboxes.agents import AgentPlace, Files
from datahub.sandboxes.decoding import Decoder
from datahub.sandboxes.index import AGENT, MASTER, Index, SlaveJson, TaskJson, address_of, task_of
from datahub.sandboxes.masters import Masters
from datahub.sandboxes.model import Address, Task, folders_of, newest_executor, version_of, virtual_folder
from datahub.sandboxes.wire import Origin, Unreached, Wire

__all__ = ["Mesos", "Sandbox"]

# More look-ups of single tasks than this at once, and the state is fetched for all of them.
SINGLE: Final = 4
SMALL: Final = 1024 * 1024
SLAVES: Final = 8 * 1024 * 1024
AGENTS_KEPT: Final = 64
HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")

log = Logger()

T = TypeVar("T")


class _Tasks(msgspec.Struct):
    tasks: list[TaskJson]


class _Slaves(msgspec.Struct):
    slaves: list[SlaveJson]
    recovered_slaves: list[SlaveJson] = []


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where the files of ``task`` are: the agent's files, and the folders there, the likeliest first.

    ``active`` is how many runs of that thing are active.
    """

    task: Task
    files: Files
    folders: tuple[str, ...]
    active: int = 1


class Mesos:
    """A cluster: what is learned of it holds for ``ttl`` seconds.

    ``scheme`` is how agents are spoken to: "http", "https", or "auto" for as the leading master is.
    """

    def __init__(self, wire: Wire, masters: Masters, decoder: Decoder, ttl: float, scheme: str) -> None:
        self._wire = wire
        self._masters = masters
        self._decoder = decoder
        self._ttl = ttl
        self._scheme = scheme
        self._state = Shared(self._fetch_state, ttl, wire.reactor)
        self._single: dict[str, Shared[list[Task]]] = {}
        self._agents: dict[str, Shared[AgentPlace]] = {}
        self._json = ""
        self._filters_tasks = True

    async def tasks(self, name: str) -> list[Task]:
        """The runs that ``name`` means; raises `NotFound`."""
        found = await self._lookup(name)
        if not found:
            raise NotFound("Not found", code="sandbox.not_found")
        return found

    async def _lookup(self, name: str) -> list[Task]:
        index = self._state.fresh
        alone = name in self._single or len(self._single) < SINGLE
        if index is None and self._filters_tasks and not self._state.running and alone:
            found = await self._single_task(name)
            if found:
                return found
        return (await self._state.get()).tasks(name)

    async def _single_task(self, name: str) -> list[Task]:
        """The runs with that very id, by a question that costs the master little; one for all who ask it now."""
        shared = self._single.setdefault(name, Shared(partial(self._fetch_task, name), 0.0, self._wire.reactor))
        try:
            return await shared.get()
        finally:
            if not shared.running:
                self._single.pop(name, None)

    async def _fetch_task(self, name: str) -> list[Task]:
        try:
            reply = await self._masters.get("/master/tasks", {"task_id": name, "limit": "1000"}, limit=SMALL)
            found = _read("the Mesos master", reply.body, _Tasks).tasks if reply.status == 200 else []
        except UpstreamFault:
            # The state will tell more, if only what is wrong.
            return []
        if reply.status != 200 or any(each.id != name for each in found):
            # An older master, which has no such list, or tells of all tasks whatever it is asked.
            self._filters_tasks = False
            return []
        return [task_of(each, "") for each in found]

    async def _fetch_state(self) -> Index:
        incoming = await self._masters.open(f"/master/state{self._json}")
        if incoming.status == 404:
            self._json = "" if self._json else ".json"
            incoming = await self._masters.open(f"/master/state{self._json}")
        if incoming.status == 404:
            raise UpstreamFault("the Mesos master has no state at the path where Mesos has it")
        index = await self._decoder.decode("the Mesos master", MASTER, incoming)
        if version_of(index.version) < (1, 1):
            self._filters_tasks = False
        return index

    async def latest(self, task: Task) -> Task:
        """What is known of that run now; one the master has forgotten has ended."""
        found = [each for each in await self._lookup(task.id) if each.framework == task.framework]
        return found[0] if found else msgspec.structs.replace(task, state="TASK_GONE")

    async def sandbox(self, task: Task) -> Sandbox:
        """Where the files of ``task`` are; raises `Gone` if they can't be any more."""
        shared = self._agents.get(task.agent)
        if shared is None:
            shared = Shared(partial(self._fetch_agent, task.agent), self._ttl, self._wire.reactor)
            self._agents[task.agent] = shared
            self._forget_agents()
        place = await shared.get()
        index = place.index
        executor = newest_executor(index.executors(task.framework, task.executor_id), task) or newest_executor(
            index.executors_of_task(task.framework, task.id), task
        )
        if executor is not None:
            return Sandbox(task, place.files, folders_of(executor, task))
        if version_of(index.version) < (1, 5):
            raise gone(task)
        # The hub may not be let see it in the state, or the agent has forgotten it and still has the files.
        return Sandbox(task, place.files, (virtual_folder(task),))

    def _forget_agents(self) -> None:
        idle = [name for name, shared in self._agents.items() if shared.fresh is None and not shared.running]
        for name in idle[: max(0, len(self._agents) - AGENTS_KEPT)]:
            del self._agents[name]

    async def _fetch_agent(self, agent: str) -> AgentPlace:
        address = await self._address(agent)
        who = f"Mesos agent {agent}"
        if address is None or not address.port or not any(map(HOST.fullmatch, address.hosts)):
            raise Gone(f"{who} is not with the Mesos master any more, and the sandbox with it", code="sandbox.gone")
        scheme = self._masters.scheme if self._scheme == "auto" else self._scheme
        origins = [Origin(scheme, host, address.port) for host in address.hosts if HOST.fullmatch(host)]
        return await self._of_any(origins, partial(self._ask_agent, who))

    async def _of_any(self, origins: list[Origin], ask: Callable[[Origin], Awaitable[T]]) -> T:
        """What the first of ``origins`` says that is there: an agent's name may be known to its cluster alone."""
        for origin in origins[:-1]:
            try:
                return await ask(origin)
            except (Unreached, UpstreamSilent) as fault:
                log.info("{fault}; its other address is tried", fault=str(fault))
        return await ask(origins[-1])

    async def _ask_agent(self, who: str, origin: Origin) -> AgentPlace:
        suffix, incoming = "", await self._wire.open(who, origin, "/state")
        if incoming.status == 404:
            incoming.abort()
            suffix, incoming = ".json", await self._wire.open(who, origin, "/state.json")
        files = Files(self._wire, origin, who, suffix)
        if incoming.status != 200:
            incoming.abort()
            raise files.refused(incoming.status, incoming.headers)
        return AgentPlace(files, await self._decoder.decode(who, AGENT, incoming))

    async def _address(self, agent: str) -> Address | None:
        index = self._state.fresh
        if index is None and self._filters_tasks and not self._state.running:
            reply = await self._masters.get("/master/slaves", {"slave_id": agent}, limit=SLAVES)
            if reply.status == 200:
                slaves = _read("the Mesos master", reply.body, _Slaves)
                found = [each for each in (*slaves.slaves, *slaves.recovered_slaves) if each.id == agent]
                return address_of(found[0]) if found else None
        return (index or await self._state.get()).address(agent)

    async def check(self) -> str | None:
        """None if a leading master answers, else why not."""
        try:
            await self._masters.get("/master/health", limit=SMALL)
        except UpstreamFault as fault:
            return str(fault)
        return None


def gone(task: Task) -> Gone:
    """The error that says that ``task`` is known, and its files are not."""
    return Gone(
        f"the sandbox of task {task.id} is gone: its agent does not have it any more ({task.state})",
        code="sandbox.gone",
    )


def _read(who: str, body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamFault(f"{who} answered what is not the JSON of Mesos") from error
