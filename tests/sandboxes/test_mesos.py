"""Finding a task and its sandbox: every kind of task, of executor, and of answer from Mesos."""

from __future__ import annotations

from typing import Any

import pytest

from datahub.kit.aio import gather
from datahub.sandboxes.wire import TimeLimits
from tests.fakes.mesos import Cluster
from tests.fakes.mesos_states import AGENT, FRAMEWORK, agent_state, directory, executor, framework, master_state, task
from tests.sandboxes.house import House

DEPLOYMENT = "11ebadaf-17d1-cf14-b870-02427cf8dc4c"
JOB = "11ebadaf-1805-3b26-b870-02427cf8dc4c"
SLOW = TimeLimits(30.0, 30.0, 30.0)
INSTANCE = "instance-0d5b1f5e-6f4f-11ec-8f43-0242ac110002"


def cluster(tasks: list[dict[str, Any]], executors: list[dict[str, Any]], **more: Any) -> Cluster:
    """A cluster of one framework and one agent."""
    fake = Cluster(master_state([framework(tasks=tasks, **more)]))
    fake.add_agent(AGENT, agent_state(executors))
    return fake


def fill(house: House, container: str, executor_id: str, data: bytes, below: str = "") -> None:
    """Put a stdout into a sandbox."""
    house.put(house.fake.agents[AGENT], directory(executor_id, container), {f"{below}stdout": data})


async def test_newest_run_of_a_chronos_job(make: Any) -> None:
    """Of hundreds of runs, kept oldest first, the newest is served; any other by its id."""
    ids = [f"ct:{1600000000000 + number * 60000}:0:{JOB}:" for number in range(700)]
    runs = [task(each, f"ChronosTask:{JOB}", "TASK_FINISHED", times=[1e9 + number]) for number, each in enumerate(ids)]
    fake = cluster([], [executor(each, f"c{number}") for number, each in enumerate(ids)], completed=runs)
    house: House = make(fake)
    fill(house, "c699", ids[699], b"newest")
    fill(house, "c5", ids[5], b"an old one")
    assert (await house.fetch(JOB, filename="stdout")).body == b"newest"
    assert (await house.fetch(f"ChronosTask:{JOB}", filename="stdout")).body == b"newest"
    assert (await house.fetch(JOB, filename="stdout", run=ids[5])).body == b"an old one"
    assert (await house.fetch(ids[5], filename="stdout")).body == b"an old one"
    listed = (await house.fetch(JOB, run="all")).json["items"]
    assert [each["id"] for each in listed] == ids[::-1]
    assert (await house.fetch(JOB, filename="stdout", run="ct:1:0:none:")).status == 404


async def test_active_run_before_a_newer_one_that_ended(make: Any) -> None:
    """What runs is what is meant."""
    runs = [
        task(f"ct:1:0:{JOB}:", f"ChronosTask:{JOB}", times=[1.0]),
        task(f"ct:2:0:{JOB}:", f"ChronosTask:{JOB}", "TASK_FAILED", times=[2.0]),
    ]
    house: House = make(cluster(runs[:1], [executor(runs[0]["id"], "c1")], completed=runs[1:]))
    fill(house, "c1", runs[0]["id"], b"running")
    assert (await house.fetch(JOB, filename="stdout")).body == b"running"


async def test_two_apps_of_a_deployment(make: Any) -> None:
    """Different tasks of one name are 300 with their ids; each of them is had by its own, or by run."""
    ids = [f"{DEPLOYMENT}_{node}.{INSTANCE}._app.1" for node in ("database", "web")]
    tasks = [task(each, f"{node}.{DEPLOYMENT}") for each, node in zip(ids, ("database", "web"), strict=True)]
    house: House = make(cluster(tasks, [executor(each, node) for each, node in zip(ids, ("c1", "c2"), strict=True)]))
    fill(house, "c2", ids[1], b"web")
    reply = await house.fetch(DEPLOYMENT, filename="stdout")
    assert (reply.status, [each["id"] for each in reply.json["items"]]) == (300, ids)
    assert (await house.fetch(DEPLOYMENT, filename="stdout", run=ids[1])).body == b"web"
    assert (await house.fetch(f"web.{DEPLOYMENT}", filename="stdout")).body == b"web"


async def test_pod(make: Any) -> None:
    """A pod's containers have sandboxes of their own, below that of its executor."""
    pod = f"instance-{DEPLOYMENT}_pod.0d5b1f5e-6f4f-11ec-8f43-0242ac110002"
    ids = [f"{DEPLOYMENT}_pod.{INSTANCE}.{name}.1" for name in ("one", "two")]
    tasks = [
        task(each, name, executor_id=pod, container=f"nested-{name}", parent="outer")
        for each, name in zip(ids, ("one", "two"), strict=True)
    ]
    house: House = make(cluster(tasks, [executor(pod, "outer", kind="DEFAULT", tasks=ids)]))
    fill(house, "outer", pod, b"the executor's own")
    fill(house, "outer", pod, b"first", f"tasks/{ids[0]}/")
    fill(house, "outer", pod, b"second", "containers/nested-two/")
    assert (await house.fetch(ids[0], filename="stdout")).body == b"first"
    # Where an agent has no tasks/ links, the container's own folder is taken.
    assert (await house.fetch(ids[1], filename="stdout")).body == b"second"
    reply = await house.fetch(DEPLOYMENT, filename="stdout")
    assert (reply.status, [each["id"] for each in reply.json["items"]]) == (300, ids)


@pytest.mark.parametrize("kind", ["CUSTOM", None])
async def test_custom_executor(make: Any, kind: str | None) -> None:
    """Its tasks share its folder."""
    fake = cluster([task("job 1 of 2", "anything", executor_id="mine")], [executor("mine", "c1", kind=kind)])
    house: House = make(fake)
    fill(house, "c1", "mine", b"shared")
    assert (await house.fetch("job 1 of 2", filename="stdout")).body == b"shared"


async def test_several_runs_of_an_executor(make: Any) -> None:
    """The one whose container the task was in is taken; without one the newest."""
    tasks = [
        task("a", "a", "TASK_FINISHED", executor_id="mine", container="first"),
        task("b", "b", "TASK_RUNNING", executor_id="mine"),
    ]
    state = agent_state([executor("mine", "second")], [executor("mine", "first")])
    fake = Cluster(master_state([framework(tasks=tasks[1:], completed=tasks[:1])]))
    fake.add_agent(AGENT, state)
    house: House = make(fake)
    fill(house, "first", "mine", b"first")
    fill(house, "second", "mine", b"second")
    assert (await house.fetch("a", filename="stdout")).body == b"first"
    assert (await house.fetch("b", filename="stdout")).body == b"second"


async def test_executor_that_tells_of_the_task(make: Any) -> None:
    """An executor of another name is found by the tasks it had."""
    fake = cluster([task("a", "a", executor_id="told wrong")], [executor("other", "c1", completed=["a"])])
    house: House = make(fake)
    fill(house, "c1", "other", b"found")
    assert (await house.fetch("a", filename="stdout")).body == b"found"


async def test_completed_framework(make: Any) -> None:
    """What a framework left behind that has gone is served."""
    gone = "gone-0001"
    left = task("test", "test", "TASK_FINISHED", framework_id=gone)
    fake = Cluster(master_state([framework()], [framework(gone, "mesos-execute instance", completed=[left])]))
    fake.add_agent(AGENT, agent_state(gone=[executor("test", "c1", framework_id=gone)], gone_framework=gone))
    house: House = make(fake)
    house.put(fake.agents[AGENT], directory("test", "c1", framework_id=gone), {"stdout": b"left"})
    assert (await house.fetch("test", filename="stdout")).body == b"left"


async def test_unreachable_task(make: Any) -> None:
    """A task whose agent is away for the master is asked for at its agent, which may well answer us."""
    away = task("away", "away", "TASK_UNREACHABLE")
    house: House = make(cluster([], [executor("away", "c1")], unreachable=[away]))
    fill(house, "c1", "away", b"still here")
    assert (await house.fetch("away", filename="stdout")).body == b"still here"


async def test_agent_that_is_gone(make: Any) -> None:
    """A task whose agent the master has forgotten is 410, in words that name no host."""
    lost = task("lost", "lost", "TASK_LOST", agent="gone-S9")
    house: House = make(cluster([], [], completed=[lost]))
    reply = await house.fetch("lost", filename="stdout")
    assert (reply.status, reply.headers["x-datahub-error"]) == (410, "sandbox.gone")
    assert "gone-S9" in reply.text


async def test_sandbox_that_was_removed(make: Any) -> None:
    """A sandbox that was collected is 410 although the agent still tells of it; a file in one that is there is 404."""
    done = task("done", "done", "TASK_FINISHED")
    house: House = make(cluster([], [executor("done", "c1")], completed=[done]))
    assert (await house.fetch("done", filename="stdout")).status == 410
    fill(house, "c1", "done", b"")
    assert (await house.fetch("done", filename="stderr")).status == 404
    assert (await house.fetch("done", filename="stderr", tail=1)).status == 404


async def test_executor_that_the_agent_hides(make: Any) -> None:
    """From 1.5 on the virtual path leads to a sandbox that the agent's state does not tell of."""
    fake = cluster([task("hidden", "hidden")], [])
    house: House = make(fake)
    fill(house, "c1", "hidden", b"there")
    assert (await house.fetch("hidden", filename="stdout")).body == b"there"


async def test_exact_id_asks_for_one_task_only(make: Any) -> None:
    """Where the master has a list of tasks by id, the state of the whole cluster is not fetched for one."""
    house: House = make(cluster([task("a", "a")], [executor("a", "c1")]))
    fill(house, "c1", "a", b"x")
    assert (await house.fetch("a", filename="stdout")).body == b"x"
    assert (house.fake.count("/tasks"), house.fake.count("/state")) == (1, 0)


async def test_crowd_is_one_state_request(make: Any) -> None:
    """Five hundred at once, by five hundred names, are one state request; the agent is asked once, too."""
    tasks = [task(f"id-{number}", f"name-{number}") for number in range(500)]
    house: House = make(cluster(tasks, [executor(each["id"], each["id"]) for each in tasks]), patience=SLOW, ttl=60.0)
    house.fake.agents[AGENT].version = "1.4.0"
    for each in tasks:
        fill(house, each["id"], each["id"], each["id"].encode())
    replies = await gather(*(house.fetch(f"name-{number}", filename="stdout") for number in range(500)))
    assert [reply.body for reply in replies] == [f"id-{number}".encode() for number in range(500)]
    assert house.fake.count("/state") == 1
    assert house.fake.count("/tasks") <= 4
    assert sum(each.path == "/state" for each in house.fake.agents[AGENT].asked) == 1


async def test_state_is_asked_for_again_when_it_is_old(make: Any) -> None:
    """A task that was begun since is found."""
    house: House = make(cluster([task("a", "app.one")], [executor("a", "c1"), executor("b", "c2")]), ttl=0.0)
    fill(house, "c2", "b", b"second")
    assert (await house.fetch("two", filename="stdout")).status == 404
    house.fake.state["frameworks"][0]["tasks"].append(task("b", "app.two"))
    house.fake.changed()
    assert (await house.fetch("two", filename="stdout")).body == b"second"


async def test_labels_that_are_no_utf_8(make: Any) -> None:
    """One task with odd bytes somewhere keeps nobody from his own."""
    fake = cluster([task("a", "app")], [executor("a", "c1")])
    house: House = make(fake)
    fake.state["frameworks"][0]["tasks"][0]["labels"] = [{"key": "XX"}]
    fake.changed()
    fake._encoded = fake.encoded.replace(b"XX", b"\xfc\xe9")
    fill(house, "c1", "a", b"x")
    assert (await house.fetch("app", filename="stdout")).body == b"x"


async def test_recovered_agent(make: Any) -> None:
    """After a fail-over an agent may be known as recovered only."""
    fake = cluster([task("a", "a")], [executor("a", "c1")])
    house: House = make(fake)
    slave = fake.state["slaves"].pop()
    fake.state["recovered_slaves"] = [{key: slave[key] for key in ("id", "hostname", "port")}]
    fake.changed()
    fill(house, "c1", "a", b"x")
    assert (await house.fetch("a", filename="stdout")).body == b"x"
    assert fake.state["frameworks"][0]["id"] == FRAMEWORK


async def test_instances_of_an_app(make: Any) -> None:
    """Of several that run that which began last is taken, with a word that there are others; any can be named."""
    ids = [f"d_web.instance-0d5b1f5e-6f4f-11ec-8f43-0242ac11000{number}._app.1" for number in range(3)]
    tasks = [task(each, "web.d", times=[100.0 + (number == 1), 200.0]) for number, each in enumerate(ids)]
    over = task("d_web.instance-0d5b1f5e-6f4f-11ec-8f43-0242ac110009._app.1", "web.d", "TASK_FAILED", times=[150.0])
    fake = cluster(tasks, [executor(each, f"c{number}") for number, each in enumerate(ids)])
    fake.state["frameworks"][0]["completed_tasks"].append(over)
    house: House = make(fake)
    for number, each in enumerate(ids):
        fill(house, f"c{number}", each, each.encode())
    reply = await house.fetch("d", filename="stdout")
    assert (reply.text, reply.headers["x-datahub-task"]) == (ids[1], ids[1])
    assert reply.headers["x-datahub-active"] == "3"
    listed = (await house.fetch("d", run="all")).json["items"]
    assert [each["id"] for each in listed] == [ids[1], ids[2], ids[0], over["id"]]
    reply = await house.fetch("d", run=ids[0], filename="stdout")
    assert reply.text == ids[0]
    assert "x-datahub-active" not in reply.headers
    head = await house.fetch("d", method="HEAD", filename="stdout")
    assert head.headers["x-datahub-active"] == "3"
