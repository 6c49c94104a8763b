"""The original's clients: its README's scenarios, its roles and checks in its order, and its defects that are gone."""

from __future__ import annotations

import json
from typing import Any

from datahub.kit.aio import gather
from datahub.processes.leftovers import TAG
from tests.jobs.house import opened
from tests.processes.floor import tagged

KEYS = ["id", "command", "status", "logs", "reasonForExit"]


def five(answer):
    """The original's keys, which come first, in its order."""
    assert list(answer)[:5] == KEYS
    return tuple(answer[key] for key in KEYS[1:])


async def test_the_readmes_scenarios(tmp_path, reactor):
    """A listing, a time-out, and a stop; the writer writes, the reader reads."""
    (tmp_path / "listed").touch()
    async with opened(tmp_path, reactor, 'timeout = "500 ms"') as house:
        created = await house.post(command=f"ls -lah {tmp_path}")
        assert five(created) == (f"ls -lah {tmp_path}", "created", "", "")
        assert created["id"].isdecimal()
        assert len(created["id"]) == 19
        started = await house.put(created["id"], "started")
        assert (started.status, started.json["status"]) == (200, "started")
        found = await house.get(created["id"], query="?wait=20s")
        assert (found["status"], found["reasonForExit"]) == ("stopped", "process finished")
        assert "listed\n" in found["logs"]

        assert five(await house.run("sleep 60")) == ("sleep 60", "stopped", "", "timeout")

        created = await house.post(command="sleep 20", timeout=30)
        await house.put(created["id"], "started")
        assert five(await house.get(created["id"])) == ("sleep 20", "started", "", "")
        stopped = await house.put(created["id"], "stopped")
        assert five(stopped.json) == ("sleep 20", "stopped", "", "API")
        assert tagged(created["id"]) == []
        assert five(await house.get(created["id"])) == ("sleep 20", "stopped", "", "API")


async def test_roles_and_the_order_of_checks(tmp_path, reactor):
    """401, 403, 400, 404, 422, each with a body that says why; no caller without credentials, whatever is open."""
    async with opened(tmp_path, reactor) as house:
        number = (await house.post(command="true"))["id"]
        good, bad = b'{"status": "started"}', b'{"status": "STARTED"}'
        for who in (None, "wow", "Writer", "", " "):
            for method, path in (("POST", "/jobs"), ("PUT", "/jobs/1"), ("GET", f"/jobs/{number}"), ("GET", "/jobs")):
                answer = await house.ask(method, path, who, data=bad)
                assert answer.status == 401, (who, method, path, answer)
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.json["detail"]
        for method, path, who, data, status in [
            ("POST", "/jobs", "reader", b"{}", 403),
            ("PUT", "/jobs/1", "reader", bad, 403),
            ("PUT", "/jobs/1", "writer", bad, 400),
            ("PUT", "/jobs/1", "writer", b"{}", 400),
            ("PUT", "/jobs/1", "writer", b'{"status": "created"}', 400),
            ("PUT", f"/jobs/{number}", "writer", b"", 400),
            ("PUT", f"/jobs/{number}", "writer", b"{", 400),
            ("PUT", "/jobs/1", "writer", good, 404),
            ("GET", "/jobs/1", "reader", None, 404),
            ("GET", "/jobs/1/output", "reader", None, 404),
            ("DELETE", "/jobs/1", "writer", None, 404),
            ("PUT", f"/jobs/{number}", "writer", b'{"status": "stopped"}', 422),
            ("PUT", f"/jobs/{number}", "other", good, 403),
            ("GET", "/job/status", "reader", None, 404),
            ("PATCH", f"/jobs/{number}", "writer", b"", 405),
            ("PUT", "/jobs", None, b"", 405),
        ]:
            answer = await house.ask(method, path, who, data=data)
            assert (answer.status, bool(answer.json["detail"])) == (status, True), (method, path, answer)
            assert answer.headers["x-datahub-error"]
            if status == 405:
                assert "GET" in answer.headers["allow"]
        answer = await house.ask("PUT", f"/jobs/{number}", data=b'{"STATUS": "started", "id": "x", "more": 1}')
        assert answer.status == 200
        await house.get(number, query="?wait=20s")
        for wanted in ("started", "stopped"):
            assert (await house.put(number, wanted)).status == 422
        assert (await house.ask("GET", f"/jobs/{number}", "Bearer reader")).status == 200


NO_JOBS = [
    (b"", "command"),
    (b"{", None),
    (b'{"command": "true"} x', None),
    (b"[]", "[]"),
    (b'"true"', '"true"'),
    (b"5", "5"),
    (b"null", "null"),
    (b"{}", "command"),
    (b'{"command": null}', "command"),
    (b'{"command": ""}', "command"),
    (b'{"command": "  "}', "command"),
    (b'{"command": 5}', "command"),
    (b'{"command": "echo a\\u0000b"}', "command"),
    (b'{"command": "\\ud800"}', None),
    (b'{"command": "nope-nope"}', "command"),
    (b'{"command": "./missing"}', "command"),
    (json.dumps({"command": "echo " + "x" * 200_000}).encode(), "command"),
    (b'{"command": "true", "argv": ["true"]}', "argv"),
    (b'{"argv": []}', "argv"),
    (b'{"argv": "true"}', "argv"),
    (b'{"argv": ["a", 5]}', "argv"),
    (b'{"command": "true", "timeout": "soon"}', "timeout"),
    (b'{"command": "true", "timeout": -1}', "timeout"),
    (b'{"command": "true", "grace": true}', "grace"),
    (b'{"command": "true", "cwd": "tmp"}', "cwd"),
    (b'{"command": "true", "env": {"A=B": "c"}}', "env"),
    (b'{"command": "true", "env": {"A": 5}}', "env"),
    (b'{"command": "true", "limits": {"memory": "much"}}', "limits"),
    (b'{"command": "true", "limits": {"colour": 1}}', "limits"),
    (b'{"command": "true", "stdin": 5}', "stdin"),
    (b'{"command": "true", "colour": 1}', "colour"),
    (b'{"command": "true", "start": "perhaps"}', "start"),
]


async def test_what_is_no_job(tmp_path, reactor):
    """Is told, with the field that is wrong; nothing is kept of it."""
    async with opened(tmp_path, reactor) as house:
        for body, field in NO_JOBS:
            answer = await house.ask("POST", "/jobs", data=body)
            named = (answer.json.get("field") or "").strip("'")
            assert (answer.status, named) == (400, field or ""), (body, answer)
        assert (await house.ask("GET", "/jobs", "boss")).json["items"] == []


async def test_what_bash_can_run_is_taken(tmp_path, reactor):
    """Also what the original refused, and its odd bodies; nothing is planted."""
    async with opened(tmp_path, reactor) as house:
        for command, logs in [
            ("cd / && pwd", "/\n"),
            ("FOO=1 env | grep FOO", "FOO=1\n"),
            ("(echo hi)", "hi\n"),
            ("for i in 1 2; do echo $i; done", "1\n2\n"),
            ('"echo" quoted', "quoted\n"),
            ("{ echo a; }", "a\n"),
            ("f() { echo f; }; f", "f\n"),
            ("2>/dev/null echo r", "r\n"),
            ("! false", ""),
            ("\n/bin/echo x\t", "x\n"),
            ("echo $((1+1)) `echo t` $HOSTNAME_", "2 t\n"),
        ]:
            found = await house.run(command)
            assert (found["logs"], found["reasonForExit"]) == (logs, "process finished"), found
        planted = {"COMMAND": "true", "id": "1", "status": "stopped", "logs": "mine", "reasonForExit": "API"}
        created = await house.post(**planted)
        assert five(created) == ("true", "created", "", "")
        assert created["id"] != "1"
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = await house.ask("POST", "/jobs", data=b'{"command": "true"}', headers={"Content-Type": kind})
            assert answer.status == 201
            assert answer.headers["location"] == f"/jobs/{answer.json['id']}"


async def test_how_jobs_end(tmp_path, reactor):
    """In the original's words; what can't be executed reads unlike what exits with 127."""
    async with opened(tmp_path, reactor) as house:
        cases: list[tuple[Any, Any, Any]] = [
            ({"command": "exit 3"}, "process finished with error: exit status 3", 3),
            ({"argv": ["bash", "-c", "nope; exit 127"]}, "process finished with error: exit status 127", 127),
            ({"argv": ["/nope"]}, "could not be executed: No such file or directory: /nope", None),
            ({"command": "kill -KILL $$"}, "process finished with error: signal: killed", None),
            ({"command": "kill -HUP $$"}, "process finished with error: signal: hangup", None),
            (
                {"command": "ulimit -c 0; kill -SEGV $$"},
                "process finished with error: signal: segmentation fault",
                None,
            ),
            ({"argv": ["echo", "a b"]}, "process finished", 0),
            ({"command": "echo x; sleep 77 & sleep 78 &"}, "process finished", 0),
        ]
        for more, reason, code in cases:
            found = await house.run(**more)
            assert (found["status"], found["reasonForExit"], found.get("exitCode")) == ("stopped", reason, code)
            assert tagged(found["id"]) == []
        assert found["usage"]["maxrss"] > 0
        assert found["command"] == "echo x; sleep 77 & sleep 78 &"


async def test_output_as_the_original_has_it(tmp_path, reactor):
    """Both streams interleaved as written, seen while it runs, bytes that are no text one by one."""
    async with opened(tmp_path, reactor) as house:
        found = await house.run("for i in 1 2 3; do echo o; echo e >&2; done")
        assert found["logs"] == "o\ne\n" * 3
        found = await house.run(r"printf '\xe2\x82\xff<é\x00\x1b\xe2\x82\xac'")
        assert found["logs"] == "\ufffd\ufffd\ufffd<é\0\x1b€"
        created = await house.post(command="echo first; sleep 30", start=True)
        while not (seen := await house.get(created["id"]))["logs"]:
            pass
        assert five(seen) == ("echo first; sleep 30", "started", "first\n", "")
        assert five((await house.put(created["id"], "stopped")).json)[2:] == ("first\n", "API")


async def test_thirty_starts_have_one_winner(tmp_path, reactor):
    """And it runs once."""
    async with opened(tmp_path, reactor) as house:
        number = (await house.post(command=f"echo x >> {tmp_path}/runs"))["id"]
        answers = await gather(*(house.put(number, "started") for _ in range(30)))
        assert sorted(answer.status for answer in answers) == [200] + [422] * 29
        await house.get(number, query="?wait=20s")
        assert (tmp_path / "runs").read_text() == "x\n"


async def test_a_clean_environment(tmp_path, reactor, monkeypatch):
    """Nothing of the daemon's; what the submitter gives is added, and the job knows its id."""
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "x")
    async with opened(tmp_path, reactor) as house:
        more = {"env": {"MINE": "ü"}, "cwd": str(tmp_path), "stdin": "in\n", "name": "n1", "timeout": "5 min"}
        found = await house.run("env; pwd; cat; ls /proc/self/fd", **more)
        assert "MINE=ü\n" in found["logs"]
        assert f"{TAG}={found['id']}\n" in found["logs"]
        assert "SECRET" not in found["logs"]
        # ls has one descriptor of its own.
        assert found["logs"].endswith(f"{tmp_path}\nin\n0\n1\n2\n3\n")
        assert found["name"] == "n1"
        assert list((tmp_path / "state" / "jobs").glob("*.in")) == []
