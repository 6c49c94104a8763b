"""Jobs that wait, run, are stopped, are lost: what the record says is what happened."""

from __future__ import annotations

import os
import signal

from datahub.kit.aio import gather
from datahub.processes.kernel import tree
from tests.jobs.house import CONFIG, opened
from tests.processes.floor import tagged
from tests.waiting import until


async def test_stop_while_queued(tmp_path, reactor):
    """It never runs; who is first in the queue goes on."""
    async with opened(tmp_path, reactor, "concurrent = 1") as house:
        first = await house.post(command="sleep 30", start=True)
        await until(lambda: tagged(first["id"]), "the first one runs")
        second = await house.post(command=f"touch {tmp_path}/ran", start=True)
        seen = await house.get(second["id"])
        assert (seen["status"], seen["queued"], seen["waiting_on"]["what"]) == ("started", True, "slot")
        stopped = (await house.put(second["id"], "stopped")).json
        assert (stopped["status"], stopped["reasonForExit"], stopped.get("queued")) == ("stopped", "API", None)
        assert (await house.put(first["id"], "stopped")).json["reasonForExit"] == "API"
        assert (await house.run("true"))["reasonForExit"] == "process finished"
        assert not (tmp_path / "ran").exists()


async def test_concurrent_is_kept_and_turns_are_fair(tmp_path, reactor):
    """Many jobs of one submitter do not delay another's; never more run than may."""
    log = tmp_path / "log"
    async with opened(tmp_path, reactor, "concurrent = 2") as house:
        command = f"echo + >> {log}; sleep 0.02; echo - >> {log}"
        await gather(*(house.post(command=command, start=True) for _ in range(60)))
        begun = log.read_text().count("+") if log.exists() else 0
        other = await house.post("other", command=command, start=True)
        await house.get(other["id"], query="?wait=20s")
        assert log.read_text().count("-") <= begun + 25
        await until(lambda: log.read_text().count("-") == 61, "all have run", 40)
        now = most = 0
        for line in log.read_text().split():
            now += 1 if line == "+" else -1
            most = max(most, now)
        assert most == 2


async def test_a_stop_kills_all_and_says_so(tmp_path, reactor):
    """SIGTERM, the grace, SIGKILL; the answer comes when nothing is left, and tells the signal."""
    async with opened(tmp_path, reactor) as house:
        job = await house.post(
            command="trap '' TERM; setsid sleep 90 & sleep 91 & echo up; wait; wait; sleep 92", start=True
        )
        await until(lambda: len(tagged(job["id"])) >= 3, "it is up")
        answers = await gather(*(house.put(job["id"], "stopped") for _ in range(3)))
        assert tagged(job["id"]) == []
        assert 200 in {answer.status for answer in answers} <= {200, 422}
        found = await house.get(job["id"])
        assert (found["reasonForExit"], found["signal"], found["logs"]) == ("API", "killed", "up\n")


async def test_a_stop_of_the_hub(tmp_path, reactor):
    """Stops jobs, within the grace, as a service that shuts down; queued ones run when it is there again."""
    async with opened(tmp_path, reactor, "concurrent = 1") as house:
        job = await house.post(command="echo up; setsid sleep 93 & sleep 94", start=True)
        await until(lambda: len(tagged(job["id"])) >= 3, "it is up")
        queued = await house.post(command="echo later", start=True)
    assert tagged(job["id"]) == []
    async with opened(tmp_path, reactor) as house:
        found = await house.get(job["id"])
        assert (found["reasonForExit"], found["logs"]) == ("Service Shutdown", "up\n")
        assert (await house.get(queued["id"], query="?wait=20s"))["logs"] == "later\n"


async def test_the_supervisor_is_killed(tmp_path, reactor):
    """What ran is lost, with the output so far; health tells, and the next job runs."""
    async with opened(tmp_path, reactor) as house:
        job = await house.post(command="echo up; setsid sleep 95 & sleep 96", start=True)
        await until(lambda: len(tagged(job["id"])) >= 3, "it is up")
        (supervisor,) = {each.pid for each in tree(os.getpid())} & _named("datahub-jobs")
        os.kill(supervisor, signal.SIGKILL)
        found = await house.get(job["id"], query="?wait=30s")
        assert (found["reasonForExit"], found["detail"]) == ("lost", "the supervisor of jobs was killed")
        assert (found["logs"], found["output"]["captured"]) == ("up\n", 3)
        assert tagged(job["id"]) == []
        assert (await house.run("echo on"))["logs"] == "on\n"
        health = (await house.ask("GET", "/health")).json
        assert health["parts"]["supervisor"] == "ok"


def _named(name):
    found = set()
    for pid, *_ in tree(os.getpid()):
        with open(f"/proc/{pid}/comm") as file:  # noqa: PTH123 - short
            if file.read().strip() == name:
                found.add(pid)
    return found


async def test_what_a_job_may_use(tmp_path, reactor):
    """Limits of its own, else those of the configuration; the record says which one ended it."""
    async with opened(tmp_path, reactor, '[jobs.limits]\nopen_files = 77\nmemory = "2 GiB"') as house:
        found = await house.run("ulimit -n; ulimit -v", limits={"memory": "1 GiB"})
        assert found["logs"] == "77\n1048576\n"
        found = await house.run("for i in $(seq 99); do sleep 60 & done; wait", limits={"processes": 30})
        assert found["reasonForExit"] == "limit of processes exceeded"
        found = await house.run("while :; do :; done", limits={"cpu_time": "1 s"})
        assert found["reasonForExit"] == "process finished with error: signal: CPU time limit exceeded"


async def test_a_wrapper(tmp_path, reactor):
    """Stands before every command, and learns whose it is."""
    wrapper = 'wrapper = ["env", "WHO={submitter}", "JOB={id}", "nice", "-n", "3"]'
    async with opened(tmp_path, reactor, wrapper) as house:
        found = await house.run("echo $WHO $JOB; nice")
        assert found["logs"] == f"writer {found['id']}\n3\n"
        assert found["command"] == "echo $WHO $JOB; nice"


async def test_lists_and_deletes(tmp_path, reactor):
    """One's own by status and name, page by page; what runs is not deleted, what was is gone with its output."""
    async with opened(tmp_path, reactor) as house:
        made = [await house.post(command="echo x", name=f"n{i % 2}") for i in range(5)]
        done = await house.run("echo done", name="n0")
        listed = (await house.ask("GET", "/jobs?limit=4")).json
        rest = (await house.ask("GET", f"/jobs?limit=4&after={listed['next']}")).json
        found = [each["id"] for each in listed["items"] + rest["items"]]
        assert found == [done["id"], *(each["id"] for each in reversed(made))]
        assert rest["next"] is None
        for query, count in [
            ("status=stopped", 1),
            ("status=created,stopped&order=old", 6),
            ("name=n0", 4),
            ("submitter=other", 0),
            ("submitter=*", 6),
        ]:
            assert len((await house.ask("GET", f"/jobs?{query}")).json["items"]) == count, query
        assert (await house.ask("GET", "/jobs?status=nope")).status == 400
        running = await house.post(command="sleep 60", start=True)
        assert (await house.ask("DELETE", f"/jobs/{running['id']}")).status == 409
        await house.put(running["id"], "stopped")
        assert (await house.ask("DELETE", f"/jobs/{done['id']}", "other")).status == 403
        for each in (running, done, made[0]):
            assert (await house.ask("DELETE", f"/jobs/{each['id']}")).status == 204
            assert (await house.ask("GET", f"/jobs/{each['id']}")).status == 404
        assert list((tmp_path / "state" / "jobs").iterdir()) == []
        events = (await house.ask("GET", f"/jobs/{made[1]['id']}/events")).json["items"]
        assert [each["type"] for each in events] == ["job.created"]


async def test_an_idempotency_key(tmp_path, reactor):
    """The same request again gives the same job, another one with its key is refused."""
    async with opened(tmp_path, reactor) as house:
        body, key = b'{"command": "true", "start": true}', {"Idempotency-Key": "k1"}
        first = await house.ask("POST", "/jobs", data=body, headers=key)
        again = await house.ask("POST", "/jobs", data=body, headers=key)
        assert (again.status, again.json["id"]) == (201, first.json["id"])
        assert (await house.ask("POST", "/jobs", data=b'{"command": "false"}', headers=key)).status == 409


async def test_whose_jobs(tmp_path, reactor):
    """Shared by default, as the original's; without that, one's own and for admin all."""
    async with opened(tmp_path, reactor) as house:
        number = (await house.run("echo x"))["id"]
    async with opened(tmp_path, reactor, config="[auth]\nshared = []\n" + CONFIG) as house:
        for path in (f"/jobs/{number}", f"/jobs/{number}/output", f"/jobs/{number}/events", "/jobs?submitter=writer"):
            statuses = [(await house.ask("GET", path, who)).status for who in ("writer", "boss", "reader", "other")]
            assert statuses == [200, 200, 403, 403]
