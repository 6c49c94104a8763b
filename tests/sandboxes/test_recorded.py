"""Recorded states of real clusters: every task in them leads to its sandbox, or to the answer that says why not."""

from __future__ import annotations

from typing import Any

import pytest

from datahub.errors import Gone
from datahub.sandboxes.model import choose
from tests.fakes.mesos import Cluster
from tests.fakes.mesos_states import agent_state, executor, recorded
from tests.sandboxes.house import House

MASTER_OF_1_0 = "master_1.0.json"


def pair() -> Cluster:
    """The master of 0.19 with the one of its two agents that was recorded."""
    fake = Cluster(recorded("pair_0.19_master.json"))
    state = recorded("pair_0.19_agent.json")
    fake.add_agent(state["id"], state)
    return fake


def with_agents(name: str) -> Cluster:
    """A recorded master, and agents that know each of its tasks."""
    fake = Cluster(recorded(name))
    for slave in fake.state["slaves"]:
        tasks = {task["id"]: task for task in fake.tasks() if task["slave_id"] == slave["id"]}
        executors: dict[str, list[dict[str, Any]]] = {}
        for task in tasks.values():
            key = task["executor_id"] or task["id"]
            executors.setdefault(task["framework_id"], []).append(
                executor(key, f"c-{key}", agent=slave["id"], framework_id=task["framework_id"], tasks=[task["id"]])
            )
        state = agent_state(agent=slave["id"], version=fake.state["version"])
        state["frameworks"] = [
            {"id": each, "executors": found, "completed_executors": []} for each, found in executors.items()
        ]
        fake.add_agent(slave["id"], state)
    return fake


async def test_every_task_of_a_real_pair(make: Any) -> None:
    """In a matching pair running tasks are found on the agent; those that ended before its restart are gone."""
    house: House = make(pair())
    agent = recorded("pair_0.19_agent.json")
    directories = {each["id"]: each["directory"] for each in agent["frameworks"][0]["executors"]}
    found, ended = [], []
    for task in house.fake.tasks():
        chosen, _ = choose(await house.mesos.tasks(task["id"]), None)
        assert (chosen.id, chosen.agent) == (task["id"], task["slave_id"])
        try:
            sandbox = await house.mesos.sandbox(chosen)
        except Gone:
            ended.append(task["state"])
        else:
            assert sandbox.folders == (directories[task["id"]],)
            found.append(task["id"])
    assert sorted(found) == sorted(directories)
    assert sorted(ended) == ["TASK_KILLED"] * 9 + ["TASK_LOST"] * 4


async def test_files_of_0_19(make: Any) -> None:
    """Its paths end in .json, its agents' ports are in the pids; nothing of that is seen outside."""
    house: House = make(pair())
    agent = recorded("pair_0.19_agent.json")
    fake = house.fake.agents[agent["id"]]
    running = agent["frameworks"][0]["executors"][0]
    house.put(fake, running["directory"], {"stdout": b"of 2014\n"})
    assert (await house.fetch(running["id"], filename="stdout")).body == b"of 2014\n"
    assert (await house.fetch(running["id"], filename="stdout", tail=1)).body == b"of 2014\n"
    listing = await house.fetch(running["id"], headers={"Accept": "application/json"})
    assert [each["path"] for each in listing.json["items"]] == ["stdout"]
    ended = next(task["id"] for task in house.fake.tasks() if task["state"] == "TASK_KILLED")
    reply = await house.fetch(ended, filename="stdout")
    assert (reply.status, reply.headers["x-datahub-error"]) == (410, "sandbox.gone")


async def test_every_task_of_1_0(make: Any) -> None:
    """Each task of a cluster of 2016 by its id: Docker, custom executors, blanks in ids, completed frameworks."""
    house: House = make(with_agents(MASTER_OF_1_0))
    newest: dict[str, dict[str, Any]] = {}
    for task in sorted(house.fake.tasks(), key=lambda task: float(task["statuses"][0]["timestamp"])):
        newest[task["id"]] = task
    for name, task in newest.items():
        chosen, _ = choose(await house.mesos.tasks(name), None)
        assert (chosen.framework, chosen.agent) == (task["framework_id"], task["slave_id"])
        (folder,) = (await house.mesos.sandbox(chosen)).folders
        key = task["executor_id"] or name
        assert folder.endswith(f"/frameworks/{task['framework_id']}/executors/{key}/runs/c-{key}")
    assert house.fake.count("/state") == 1


@pytest.mark.parametrize(
    ("name", "state"), [("calico", "TASK_RUNNING"), ("etcd", "TASK_RUNNING"), ("test-mesos-cni", "TASK_RUNNING")]
)
async def test_apps_of_1_0(make: Any, name: str, state: str) -> None:
    """An app that was begun dozens of times is its running task, though dozens have failed."""
    house: House = make(with_agents(MASTER_OF_1_0))
    runs = await house.mesos.tasks(name)
    chosen, _ = choose(runs, None)
    assert (chosen.name, chosen.state, len(runs) > 15) == (name, state, True)
    reply = await house.fetch(name, run="all")
    assert [each["active"] for each in reply.json["items"]].count(True) == 1
    assert reply.json["items"][0]["id"] == chosen.id
    failed = reply.json["items"][-1]["id"]
    assert choose(runs, failed)[0].id == failed


async def test_docker_task_of_1_5(make: Any) -> None:
    """A real agent of 1.5 with one Docker task."""
    agent = recorded("agent_1.5.json")
    found = agent["frameworks"][0]["executors"][0]
    task = {
        "id": found["id"],
        "name": found["tasks"][0]["name"],
        "framework_id": agent["frameworks"][0]["id"],
        "executor_id": "",
        "slave_id": agent["id"],
        "state": "TASK_RUNNING",
        "statuses": found["tasks"][0]["statuses"],
    }
    framework = {"id": task["framework_id"], "name": "marathon", "tasks": [task]}
    slave = {"id": agent["id"], "hostname": agent["hostname"], "port": 5051, "pid": agent["pid"]}
    fake = Cluster({"version": "1.5.0", "frameworks": [framework], "slaves": [slave]})
    fake.add_agent(agent["id"], agent)
    house: House = make(fake)
    house.put(fake.agents[agent["id"]], found["directory"], {"stderr": b"Docker's\n"})
    assert (await house.fetch(found["id"], filename="stderr")).body == b"Docker's\n"
