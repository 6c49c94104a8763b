"""Jobs by the real daemon: the original's commands over TLS, kills of everything, drains, and a second hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import self_signed_pem
from tests.processes.floor import tagged
from tests.processes.test_supervisor import FAMILY, FAMILY_SIZE
from tests.whole.daemon import Daemon, free_port, until
from tests.whole.site import Site

SECTIONS: dict[str, dict[str, Any]] = {
    "auth": {"anonymous": []},
    "auth.tokens.writer": {"token": "writer", "scopes": ["read", "write"]},
    "auth.tokens.reader": {"token": "reader", "scopes": ["read"]},
    "jobs": {"grace": "500 ms", "concurrent": 2},
}


def ask(daemon: Daemon, method: str, path: str, body: Any = None, seconds: float = 40.0) -> Any:
    data = None if body is None else json.dumps(body)
    answer = daemon.call(method, path, data, {"Authorization": "writer"}, seconds)
    assert answer.status in (200, 201), answer
    return answer.json


def start(daemon: Daemon, command: str, **more: Any) -> str:
    return str(ask(daemon, "POST", "/jobs", {"command": command, "start": True, "timeout": "5 min", **more})["id"])


def over(daemon: Daemon, number: str) -> Any:
    return ask(daemon, "GET", f"/jobs/{number}?wait=30s")


def start_families(daemon: Daemon) -> list[str]:
    """Start two jobs with families, and one that waits behind them."""
    jobs = [start(daemon, FAMILY + "sleep 80") for _ in range(2)]
    until(lambda: all(len(tagged(job)) >= FAMILY_SIZE for job in jobs), "the families")
    return [*jobs, start(daemon, "echo queued")]


def own(daemon: Daemon) -> list[int]:
    """The supervisors of ``daemon``'s node and their wardens, whoever they belong to now."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if b"processes.supervisor" in line and str(daemon.config.parent).encode() in line:
                found.append(int(folder.name))
    return found


def test_the_daemon_is_killed(site: Site) -> None:
    """What ran is lost, gone, and its output is there; what was queued runs. Then all are killed at once, twice."""
    daemon = site.hub(sections=SECTIONS)
    daemon.start()
    *jobs, queued = start_families(daemon)
    daemon.kill()
    until(lambda: not any(tagged(job) for job in jobs), "nothing is left of the jobs")
    until(lambda: not own(daemon), "nothing is left of the supervisor")
    daemon.start()
    for job in jobs:
        seen = over(daemon, job)
        assert (seen["status"], seen["reasonForExit"], seen["logs"]) == ("stopped", "lost", "ready\n")
        output = daemon.call("GET", f"/jobs/{job}/output", headers={"Authorization": "reader"})
        assert output.text == "ready\n"
    assert over(daemon, queued)["logs"] == "queued\n"

    # Daemon, supervisor and wardens at the same moment: what is left is known by its record and its environment.
    *jobs, queued = start_families(daemon)
    until(lambda: site.rows("SELECT id FROM job WHERE process IS NOT NULL AND status = 'started'"), "a note of them")
    os.kill(daemon.pid, signal.SIGSTOP)
    for pid in own(daemon):
        os.kill(pid, signal.SIGSTOP)
    for pid in own(daemon):
        os.kill(pid, signal.SIGKILL)
    daemon.kill()
    assert all(tagged(job) for job in jobs)
    daemon.start()
    assert [over(daemon, job)["reasonForExit"] for job in jobs] == ["lost", "lost"]
    assert not any(tagged(job) for job in jobs)
    assert over(daemon, queued)["logs"] == "queued\n"
    daemon.stop()


def test_the_daemon_is_stopped(site: Site) -> None:
    """SIGTERM stops jobs, deaf ones too, within the grace; they say so, and queued ones run later."""
    daemon = site.hub(sections=SECTIONS)
    daemon.start()
    *jobs, queued = start_families(daemon)
    begun = time.monotonic()
    daemon.stop()
    assert time.monotonic() - begun < 15
    assert not any(tagged(job) for job in jobs)
    assert own(daemon) == []
    daemon.start()
    for job in jobs:
        seen = over(daemon, job)
        assert (seen["reasonForExit"], seen["signal"], seen["logs"]) == ("Service Shutdown", "killed", "ready\n")
    assert over(daemon, queued)["logs"] == "queued\n"
    assert "jobs can read whatever" in daemon.log
    daemon.stop()


def test_the_readmes_commands_over_tls(site: Site) -> None:
    """As they stand there, with a client certificate that nobody asks for."""
    port, plain = free_port(), free_port()
    pem = site.folder / "ca.pem"
    pem.write_bytes(self_signed_pem("localhost"))
    daemon = site.hub(sections={**SECTIONS, "jobs": {"timeout": "1 s"}}, listens=[f"tcp:{plain}:interface=127.0.0.1"])
    daemon.port = plain
    text = daemon.config.read_text()
    tls = '[listen.tls]\ncertificate = "ca.pem"\nkey = "ca.pem"\n'
    daemon.config.write_text(f'[[listen]]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n{tls}{text}')
    daemon.start()
    script = f"""
    set -e
    H=localhost:{port}
    C="--cert {pem} --cacert {pem}"
    ID=$(curl -s -X POST https://$H/jobs -H 'Authorization: writer' -d '{{"command": "ls -lah {pem}"}}' $C | jq -r .id)
    curl -s -X PUT https://$H/jobs/$ID -H 'Authorization: writer' -d '{{"status":"started"}}' $C >/dev/null
    sleep 1
    curl -s https://$H/jobs/$ID -H 'Authorization: reader' $C
    ID=$(curl -s -X POST https://$H/jobs -H 'Authorization: writer' -d '{{"command": "sleep 60"}}' $C | jq -r .id)
    curl -s -X PUT https://$H/jobs/$ID -H 'Authorization: writer' -d '{{"status":"started"}}' $C >/dev/null
    sleep 3
    curl -s https://$H/jobs/$ID -H 'Authorization: reader' --cacert {pem}
    """
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=50)
    listed, slept = map(json.loads, ended.stdout.splitlines())
    assert (listed["status"], listed["reasonForExit"]) == ("stopped", "process finished")
    assert "ca.pem" in listed["logs"]
    assert [slept[key] for key in ("command", "status", "logs", "reasonForExit")] == [
        "sleep 60",
        "stopped",
        "",
        "timeout",
    ]
    daemon.stop()


@pytest.mark.engine
def test_a_stop_by_another_hub(postgresql_site: Site) -> None:
    """Each hub takes every verb; the one that runs the job stops it, and only its node has the output."""
    site = postgresql_site
    here = site.hub("hub1", SECTIONS)
    there = site.hub("hub2", {**SECTIONS, "hub": {"workers": []}})
    here.start()
    there.start()
    job = start(there, "echo up; trap '' TERM; setsid sleep 85 & sleep 86; sleep 87")
    until(lambda: len(tagged(job)) >= 3, "it runs", 30)
    stopped = ask(there, "PUT", f"/jobs/{job}", {"status": "stopped"})
    assert (stopped["status"], stopped["reasonForExit"], stopped["node"]) == ("stopped", "API", "hub1")
    assert tagged(job) == []
    assert ask(here, "GET", f"/jobs/{job}")["logs"] == "up\n"
    elsewhere = there.call("GET", f"/jobs/{job}/output", headers={"Authorization": "reader"})
    assert (elsewhere.status, elsewhere.json["code"]) == (409, "job.elsewhere")
    assert "hub1" in elsewhere.json["detail"]
    there.stop()
    here.stop()
