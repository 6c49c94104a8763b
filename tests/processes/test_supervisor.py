"""The supervisor with its wardens, for real: nothing is left of a job, and nothing of its end is lost."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from datahub.kit.aio import gather, within
from datahub.processes import runner
from datahub.processes.control import Control
from datahub.processes.kernel import tree
from datahub.processes.runner import Written
from datahub.processes.supervisor import Hand
from tests.processes.floor import opened, tagged
from tests.waiting import until

# In own sessions, re-parented, five deep, deaf: none of them goes by itself.
FAMILY = """
trap '' TERM HUP
sleep 97 &
(setsid sleep 98 &)
setsid bash -c 'trap "" TERM; (setsid sleep 99 & sleep 100 & wait) & wait' &
bash -c "bash -c \\"bash -c 'bash -c \\\\\\"(sleep 101; true)\\\\\\"'\\"" &
python3 -c '
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(102)
' &
echo ready
"""
FAMILY_SIZE = 6


@pytest.mark.parametrize(
    ("command", "code", "number", "output"),
    [
        ("true", 0, None, b""),
        ("echo out; echo err >&2; echo out2; exit 3", 3, None, b"out\nerr\nout2\n"),
        ("kill -9 $$", None, 9, b""),
        ("exit 127", 127, None, b""),
        ("echo first; echo x >/dev/stderr; echo last >/dev/stdout", 0, None, b"first\nx\nlast\n"),
        ("exec >&- 2>&-; exit 5", 5, None, b""),
        ("cat; echo end", 0, None, b"end\n"),
        ("echo hi; sleep 41 & echo bye", 0, None, b"hi\nbye\n"),
        ("for i in 1 2 3; do echo $i | cat; done | cat", 0, None, b"1\n2\n3\n"),
    ],
)
async def test_the_end_of_a_job(tmp_path, reactor, command, code, number, output):
    """Its code or its signal, and all that it wrote, in the order in which it did."""
    async with opened(tmp_path, reactor) as floor:
        ended, written = await floor.run(command)
        assert (ended.code, ended.signal, ended.cause, ended.error, ended.lost) == (code, number, None, None, None)
        assert written == output
        assert ended.output == (Written(len(output), 0),)


async def test_what_can_not_be_executed(tmp_path, reactor):
    """Is told by the kernel's reason, and so reads unlike a program that exits with 127."""
    script = tmp_path / "script"
    script.write_bytes(b"\x00\x01 no program")
    script.chmod(0o755)
    async with opened(tmp_path, reactor) as floor:
        cases: list[tuple[Any, Any, Any]] = [
            (["/nope"], {}, "No such file or directory: /nope"),
            (["nope-nope"], {}, "No such file or directory: nope-nope"),
            (["ls"], {"cwd": "/nope"}, "No such file or directory: /nope"),
            ([str(tmp_path)], {}, f"Permission denied: {tmp_path}"),
            ([str(script)], {}, f"Exec format error: {script}"),
            (["/nope"], {"limits": {"open_files": 20}}, "No such file or directory: /nope"),
            (["ls", "a\0b"], {}, "embedded null byte"),
            (["ls", "x" * 200_000], {}, "Argument list too long"),
        ]
        for argv, more, error in cases:
            ended, _ = await floor.run(argv, **more)
            assert ended.error is not None
            assert error in ended.error
            assert ended.code is None
            assert ended.signal is None
        assert (await floor.run("true"))[0].code == 0


async def test_a_family_is_gone_when_its_job_is_over(tmp_path, reactor):
    """Background, re-parented, own-session and double-forked children, five deep."""
    async with opened(tmp_path, reactor) as floor:
        ended, written = await within(20, floor.run(FAMILY + "sleep 0.3"), reactor, "the end")
        assert (ended.code, written) == (0, b"ready\n")


async def test_a_family_is_gone_after_a_stop(tmp_path, reactor):
    """SIGTERM is ignored; after the grace all of it is killed, and only then it has ended."""
    async with opened(tmp_path, reactor) as floor:
        order = floor.order(FAMILY + "while :; do sleep 1; done")
        child = await floor.runner.run(order)
        await until(lambda: len(tagged(order.job)) >= FAMILY_SIZE, "the family")
        floor.runner.end(order.job, "API", 0.2)
        ended = await child.end()
        assert tagged(order.job) == []
        assert (ended.cause, ended.signal) == ("API", signal.SIGKILL)


async def test_a_time_out(tmp_path, reactor):
    """Ends what goes on, softly first: what it says to SIGTERM is kept."""
    async with opened(tmp_path, reactor) as floor:
        ended, written = await floor.run("trap 'echo bye; exit 7' TERM; sleep 60 & wait", timeout=0.3)
        assert (ended.cause, ended.code, written) == ("timeout", 7, b"bye\n")


async def test_a_stop_waits_for_those_who_end_by_themselves(tmp_path, reactor):
    """The first process goes at once, another one of its group takes its time: it has the grace for that."""
    async with opened(tmp_path, reactor) as floor:
        order = floor.order("(trap 'sleep 0.3; echo done; exit' TERM; echo up; while :; do sleep 0.05; done) & wait")
        child = await floor.runner.run(order)
        await until(lambda: floor.read(order) == b"up\n", "it is up")
        floor.runner.end(order.job, "API", 20)
        ended = await child.end()
        assert ended.signal == signal.SIGTERM
        assert floor.read(order).endswith(b"done\n")


async def test_limits(tmp_path, reactor):
    """Hold from the first instruction on; a job can't raise them."""
    async with opened(tmp_path, reactor) as floor:
        limits = {"memory": 1 << 30, "open_files": 50, "file_size": 1 << 20}
        _, written = await floor.run("ulimit -Sv; ulimit -Hn; ulimit -Hf", limits=limits)
        assert written == b"1048576\n50\n1024\n"
        ended, _ = await floor.run(f"head -c 2000000 /dev/zero > {tmp_path}/large", limits=limits)
        assert (tmp_path / "large").stat().st_size == 1 << 20
        assert ended.code == 128 + signal.SIGXFSZ
        ended, _ = await floor.run("exec bash -c 'while :; do :; done'", limits={"cpu_time": 1})
        assert ended.signal == signal.SIGXCPU


@pytest.mark.parametrize(
    # The first doubles until it is counted: nothing else should be tested beside it.
    "bomb",
    [pytest.param("f() { f | f & }; f; sleep 50", marks=pytest.mark.slow), "while :; do setsid sleep 50 & done"],
)
async def test_a_job_that_forks_for_ever(tmp_path, reactor, bomb):
    """Is ended, whole, by the limit of processes, which counts the job's own."""
    async with opened(tmp_path, reactor) as floor:
        ended, _ = await within(40, floor.run(bomb, limits={"processes": 40}), reactor, "its end")
        assert ended.cause == "processes"


async def test_streams_apart(tmp_path, reactor):
    """Each in a file of its own, where that was asked for."""
    async with opened(tmp_path, reactor) as floor:
        order = floor.order("echo out; echo err >&2", output=[str(tmp_path / "o"), str(tmp_path / "e")])
        child = await floor.runner.run(order)
        ended = await child.end()
        assert (floor.read(order), floor.read(order, 1)) == (b"out\n", b"err\n")
        assert ended.output == (Written(4), Written(4))


async def test_standard_input(tmp_path, reactor):
    """Is a file where there is one, else empty."""
    (tmp_path / "in").write_bytes(b"some\nlines\n")
    async with opened(tmp_path, reactor) as floor:
        assert (await floor.run("tac", stdin=str(tmp_path / "in")))[1] == b"lines\nsome\n"


async def test_output_beyond_its_limit(tmp_path, reactor):
    """Loses its head, by holes: the disk holds little more than the limit, and offsets stay true."""
    keep = 256 * 1024
    async with opened(tmp_path, reactor) as floor:
        order = floor.order("for i in $(seq 300000); do echo $i; done", keep=keep)
        child = await floor.runner.run(order)
        ended = await child.end()
        (written,) = ended.output
        expected = b"".join(b"%d\n" % n for n in range(1, 300_001))
        assert written.total == len(expected)
        assert written.total - written.dropped >= keep
        kept = floor.read(order)
        assert kept[written.dropped :] == expected[written.dropped :]
        assert not any(kept[: written.dropped])
        assert Path(order.output[0]).stat().st_blocks * 512 <= 2 * keep


async def test_output_that_can_not_be_kept(tmp_path, reactor):
    """A full disk costs the rest of the output, which is counted, and not the job."""
    async with opened(tmp_path, reactor) as floor:
        await floor.runner.ready()
        assert floor.runner.pid is not None
        # What stands for the full disk: wardens may not write larger files.
        resource.prlimit(floor.runner.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
        ended, written = await floor.run("head -c 3000000 /dev/zero; echo over >/dev/null; exit 4")
        (facts,) = ended.output
        assert (ended.code, facts.total + facts.lost, len(written)) == (4, 3_000_000, facts.total)
        assert facts.fault == "output is not kept any more: File too large"
        ended, _ = await floor.run("echo x", output=["/nope/out"])
        assert ended.output[0].fault == "output is not kept any more: No such file or directory"


async def test_a_background_child_writes_nothing_after_the_end(tmp_path, reactor):
    """It is gone."""
    async with opened(tmp_path, reactor) as floor:
        order = floor.order("(setsid bash -c 'while :; do echo more; sleep 0.01; done' &); sleep 0.1; echo last")
        child = await floor.runner.run(order)
        await child.end()
        size = len(floor.read(order))
        assert tagged(order.job) == []
        assert len(floor.read(order)) == size


async def test_the_supervisor_is_killed(tmp_path, reactor):
    """Its jobs are lost, and gone before that is told; a new supervisor takes the next ones."""
    async with opened(tmp_path, reactor) as floor:
        order = floor.order(FAMILY + "sleep 70")
        child = await floor.runner.run(order)
        await until(lambda: len(tagged(order.job)) >= FAMILY_SIZE, "the family")
        former = floor.runner.pid
        assert former is not None
        os.kill(former, signal.SIGKILL)
        ended = await within(30, child.end(), reactor, "its end")
        assert tagged(order.job) == []
        assert ended.lost == "the supervisor of jobs was killed"
        assert floor.runner.pid != former
        assert await floor.runner.check() is None
        assert (await floor.run("echo on"))[1] == b"on\n"


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_warden_is_killed(tmp_path, reactor):
    """Its job is lost, and gone before that is told; others go on."""
    async with opened(tmp_path, reactor) as floor:
        order, other = floor.order(FAMILY + "sleep 70"), floor.order("sleep 0.5; echo other")
        child = await floor.runner.run(order)
        await until(lambda: child.pid, "its start")
        another = await floor.runner.run(other)
        await until(lambda: len(tagged(order.job)) >= FAMILY_SIZE, "the family")
        os.kill(parent_of(child.pid), signal.SIGKILL)
        ended = await within(30, child.end(), reactor, "its end")
        assert ended.lost == "its warden was killed"
        assert tagged(order.job) == []
        assert (await another.end()).code == 0
        assert floor.read(other) == b"other\n"


async def test_a_warden_is_killed_while_its_job_is_stopped(tmp_path, reactor):
    """The supervisor may write to a warden that is gone already: the others' jobs go on, and so does it."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with closing(ours):
        Hand(1, Control(ours)).tell(b'{"stop": "job"}')
    async with opened(tmp_path, reactor) as floor:
        former = floor.runner.pid
        other = await floor.runner.run(floor.order("sleep 1; echo other"))
        for _ in range(10):
            order = floor.order("sleep 70")
            child = await floor.runner.run(order)
            await until(lambda: child.pid, "its start")  # noqa: B023
            os.kill(parent_of(child.pid), signal.SIGKILL)
            floor.runner.end(order.job, "api", 0)
            ended = await within(30, child.end(), reactor, "its end")
            assert ended.lost == "its warden was killed"
        assert (await other.end()).code == 0
        assert floor.runner.pid == former


async def test_a_supervisor_that_can_not_be_started_again(tmp_path, reactor, monkeypatch):
    """Is tried again until it can be; jobs wait for it."""
    monkeypatch.setattr(runner, "PAUSE", 0.05)
    async with opened(tmp_path, reactor) as floor:
        await floor.runner.ready()
        spawn, tries = floor.runner._spawn, []

        def fail_twice():
            tries.append(1)
            if len(tries) < 3:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            spawn()

        monkeypatch.setattr(floor.runner, "_spawn", fail_twice)
        assert floor.runner.pid is not None
        os.kill(floor.runner.pid, signal.SIGKILL)
        await until(lambda: tries, "the first try")
        assert (await floor.run("echo on"))[1] == b"on\n"
        assert len(tries) == 3


async def test_jobs_at_once(tmp_path, reactor):
    """Are served by as many wardens, which serve the next ones, too."""
    async with opened(tmp_path, reactor) as floor:
        for _ in range(2):
            found = await gather(*(floor.run(f"echo {n}") for n in range(10)))
            assert [written for _, written in found] == [b"%d\n" % n for n in range(10)]
        assert floor.runner.pid is not None
        assert len(tree(floor.runner.pid)) == 10


async def test_a_stop_of_the_hub_ends_all(tmp_path, reactor):
    """The runner's stop returns when the supervisor is gone, and with it what ran under it."""
    async with opened(tmp_path, reactor) as floor:
        order = floor.order(FAMILY + "sleep 70")
        child = await floor.runner.run(order)
        await until(lambda: len(tagged(order.job)) >= FAMILY_SIZE, "the family")
    assert child.ended is not None
    assert tagged(order.job) == []


async def test_signals_to_all_are_not_ours(tmp_path, reactor):
    """A terminal or systemd sends SIGTERM and SIGINT to every process: the daemon decides, and jobs have defaults."""
    async with opened(tmp_path, reactor) as floor:
        await floor.runner.ready()
        assert floor.runner.pid is not None
        await floor.run("true")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            for pid in (floor.runner.pid, *(each.pid for each in tree(floor.runner.pid))):
                os.kill(pid, number)
        ended, _ = await floor.run("kill -TERM $$")
        assert ended.signal == signal.SIGTERM
