"""What a name means: ids, parts of paths, jobs; and which run of several."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from datahub.errors import InvalidRequest, NotFound
from datahub.sandboxes.model import Executor, Several, Task, app_of, choose, folders_of, inside, names_of, version_of

UUID = "0d5b1f5e-6f4f-11ec-8f43-0242ac110002"
DEPLOYMENT = "11ebadab-8394-76fe-b870-02427cf8dc4c"


def run(task_id: str, name: str = "app", state: str = "TASK_FINISHED", begun: float = 1.0, **more: Any) -> Task:
    """A run."""
    fields = {"framework": "f", "framework_name": "marathon", "executor": "", "agent": "a", "containers": (), **more}
    return Task(id=task_id, name=name, state=state, begun=begun, changed=begun, **fields)


@pytest.mark.parametrize(
    ("task_id", "name", "parts"),
    [
        (f"{DEPLOYMENT}_web.{UUID}", f"web.{DEPLOYMENT}", {"web", DEPLOYMENT, f"web.{DEPLOYMENT}"}),
        (f"{DEPLOYMENT}_web.{UUID}.3", f"web.{DEPLOYMENT}", {"web", DEPLOYMENT, f"web.{DEPLOYMENT}"}),
        (f"a_b.marathon-{UUID}._app", "b.a", {"a", "b", "b.a"}),
        (f"a_b.instance-{UUID}._app.2", "b.a", {"a", "b", "b.a"}),
        (f"{DEPLOYMENT}_pod.instance-{UUID}.main", "main", {"main", "pod", DEPLOYMENT}),
        (f"{DEPLOYMENT}_pod.instance-{UUID}.main.4", "main", {"main", "pod", DEPLOYMENT}),
        ("etcd-1471132631 192.168.65.111 1025 1026 1027", "etcd-server", {"etcd-server"}),
    ],
)
def test_names(task_id: str, name: str, parts: set[str]) -> None:
    """Every format of Marathon's ids, and free ones."""
    found = list(names_of(task_id, name))
    assert found[0] == ("id", task_id)
    assert {each for rule, each in found if rule == "part"} == parts


def test_names_of_a_job() -> None:
    """A Chronos job is found by its whole name alone, dots or not."""
    names = {each: rule for rule, each in names_of("ct:1:0:my.job:", "ChronosTask:my.job")}
    assert names == {"ct:1:0:my.job:": "id", "my.job": "job", "ChronosTask:my.job": "job"}


def test_apps() -> None:
    """The containers of one pod are different things, the instances of one app are not."""
    assert app_of(f"a_p.instance-{UUID}.one", "one") != app_of(f"a_p.instance-{UUID}.two", "two")
    assert app_of(f"a_p.instance-{UUID}.one.1", "one") == app_of(f"a_p.instance-{UUID}.one.2", "one")
    assert app_of(f"a.{UUID}", "a") == app_of(f"a.instance-{UUID}._app.1", "a")


def test_choice() -> None:
    """The active run, else the newest; the named one if one is named; of different things all are told."""
    runs = [run("old"), run("new", begun=3.0), run("running", state="TASK_RUNNING", begun=2.0)]
    assert choose(runs, None)[0].id == "running"
    assert choose(runs[:2], None)[0].id == "new"
    assert choose(runs, "old")[0].id == "old"
    with pytest.raises(NotFound):
        choose(runs, "other")
    with pytest.raises(Several) as told:
        choose([*runs, run("b", name="other")], None)
    assert [each.id for each in told.value.tasks] == ["b", "running"]


def test_instances_of_an_app() -> None:
    """Of several active ones that which began last, however a master orders them; and it is told how many there are."""
    runs = [run("done", begun=9.0), *(run(each, state="TASK_RUNNING", begun=5.0) for each in ("a", "c", "b"))]
    starting = run("starting", state="TASK_STARTING", begun=6.0)
    for order in permutations(runs):
        task, active = choose(order, None)
        assert (task.id, active) == ("c", 3)
        assert choose([*order, starting], None)[0].id == "starting"
    assert choose(runs, "a")[1] == 1
    assert choose(runs[:1], None)[1] == 0


def test_unreachable_is_neither_active_nor_ended() -> None:
    """It may come back."""
    away = run("a", state="TASK_UNREACHABLE")
    assert (away.active, away.ended) == (False, False)


@pytest.mark.parametrize(
    ("filename", "path"),
    [("stdout", "stdout"), ("/a//b/./c", "a/b/c"), ("a/../b", "b"), ("", ""), ("/", ""), (".", "")],
)
def test_paths(filename: str, path: str) -> None:
    """A path is taken relative to the sandbox."""
    assert inside(filename) == path


@pytest.mark.parametrize("filename", ["..", "../x", "/../x", "a/../../x", "x" * 5000])
def test_paths_that_leave(filename: str) -> None:
    """One that leaves it, or is endless, is refused."""
    with pytest.raises(InvalidRequest):
        inside(filename)


def test_folders() -> None:
    """A pod's tasks have folders below that of their executor."""
    default = Executor("e", "c", "/w", "DEFAULT", 1)
    nested = run("t", containers=("outer", "inner", "innermost"))
    assert folders_of(default, nested) == ("/w/tasks/t", "/w/containers/inner/containers/innermost")
    assert folders_of(Executor("e", "c", "/w", "CUSTOM", 1), nested) == ("/w",)


@pytest.mark.parametrize(("text", "version"), [("1.11.0", (1, 11, 0)), ("0.25.0-rc3", (0, 25, 0)), ("", ())])
def test_versions(text: str, version: tuple[int, ...]) -> None:
    """Versions compare as numbers."""
    assert version_of(text) == version
