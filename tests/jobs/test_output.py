"""The output of jobs: parts of it, and all of it, for any number of readers, from the first byte to the last."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from datahub.kit.aio import gather, sleep
from tests.jobs.house import opened
from tests.processes.floor import tagged
from tests.waiting import until

FINISHED = Failure(ResponseDone())
# Bytes of any value, the same in each run.
RANDOM = (
    "python3 -c 'import random, sys, time\n"
    "r = random.Random(1)\n"
    "for n in range({count}):\n"
    "    sys.stdout.buffer.write(r.randbytes({size})); sys.stdout.flush(); time.sleep({pause})'"
)


def expected(count, size):
    import random

    chance = random.Random(1)
    return b"".join(chance.randbytes(size) for _ in range(count))


class Digest(Protocol):
    """Hashes a body as it comes."""

    transport: Any

    def __init__(self):
        self.done = Deferred()
        self.hash = hashlib.sha256()
        self.size = 0

    def dataReceived(self, data):
        self.hash.update(data)
        self.size += len(data)

    def connectionLost(self, reason: Failure = FINISHED) -> None:
        self.done.callback(bool(reason.check(ResponseDone)))


async def follow(house, number, query=""):
    """Follow a job to its end; size, digest, and whether it ended as it should."""
    response = await house.request("GET", f"/jobs/{number}/output?follow=1{query}", "reader")
    assert response.code == 200
    digest = Digest()
    response.deliverBody(digest)
    whole = await digest.done
    return digest.size, digest.hash.hexdigest(), whole


async def test_followers_get_the_same_bytes(tmp_path, reactor):
    """Before the start, in the middle and after the end; each ends by itself."""
    count, size = 40, 100_000
    data = expected(count, size)
    right = (len(data), hashlib.sha256(data).hexdigest(), True)
    async with opened(tmp_path, reactor) as house:
        job = await house.post(command=RANDOM.format(count=count, size=size, pause=0.02))
        early = [follow(house, job["id"]) for _ in range(10)]

        async def late():
            await house.put(job["id"], "started")
            await until(lambda: tagged(job["id"]), "it runs")
            return await gather(*(follow(house, job["id"]) for _ in range(10)))

        *first, second = await gather(*early, late())
        assert [*first, *second] == [right] * 20
        assert await follow(house, job["id"]) == right
        assert await follow(house, job["id"], "&tail=0") == (0, hashlib.sha256().hexdigest(), True)
        assert (await house.output(job["id"])).body == data


async def test_a_reader_who_stops_reading(tmp_path, reactor):
    """Delays neither the job nor others, and costs a buffer."""
    size = 20_000_000
    async with opened(tmp_path, reactor) as house:
        job = await house.post(command=f"head -c {size} /dev/zero")
        response = await house.request("GET", f"/jobs/{job['id']}/output?follow=1", "reader")
        stalled = Digest()
        response.deliverBody(stalled)
        stalled.transport.pauseProducing()
        await house.put(job["id"], "started")
        assert (await follow(house, job["id"]))[0] == size
        assert (await house.get(job["id"]))["output"] == {"captured": size, "dropped": 0}
        held = [
            len(channel.transport.dataBuffer) + sum(map(len, channel.transport._tempDataBuffer))
            for channel in cast("Any", house.hub.listeners)._traffic.connections
        ]
        assert max(held) < 200_000
        stalled.transport.resumeProducing()
        assert await stalled.done
        assert stalled.size == size


async def test_parts_of_the_output(tmp_path, reactor):
    """By Range, by offset, by tail; also while it runs."""
    async with opened(tmp_path, reactor) as house:
        job = await house.post(command="printf 0123456789; sleep 60", start=True)
        while (await house.output(job["id"])).body != b"0123456789":
            await sleep(0.02, reactor)
        for query, ranged, status, body in [
            ("", "bytes=2-4", 206, b"234"),
            ("", "bytes=-3", 206, b"789"),
            ("", "bytes=8-", 206, b"89"),
            ("?tail=4", "", 200, b"6789"),
            ("?tail=99", "", 200, b"0123456789"),
            ("?offset=9", "", 200, b"9"),
            ("?offset=10", "", 200, b""),
        ]:
            answer = await house.output(job["id"], query, **({"Range": ranged} if ranged else {}))
            assert (answer.status, answer.body) == (status, body), query
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-disposition"].startswith("attachment")
        assert (await house.output(job["id"], Range="bytes=2-4")).headers["content-range"] == "bytes 2-4/10"
        for query, ranged, status in [
            ("", "bytes=10-", 416),
            ("?offset=11", "", 416),
            ("?offset=1&tail=1", "", 400),
            ("?stream=stdout", "", 400),
            ("?stream=nope", "", 400),
        ]:
            assert (await house.output(job["id"], query, **({"Range": ranged} if ranged else {}))).status == status
        await house.put(job["id"], "stopped")


async def test_streams_apart(tmp_path, reactor):
    """Where that was asked for."""
    async with opened(tmp_path, reactor) as house:
        found = await house.run("echo out; echo err >&2", separate=True)
        assert found["streams"]["stderr"] == {"captured": 4, "dropped": 0}
        for stream, body in (("stdout", b"out\n"), ("stderr", b"err\n")):
            assert (await house.output(found["id"], f"?stream={stream}")).body == body
        assert (await house.output(found["id"])).status == 400


async def test_a_head_that_was_dropped(tmp_path, reactor):
    """Offsets stay true: the rest has them, and what is gone is told to be gone."""
    async with opened(tmp_path, reactor, 'output_limit = "64 KiB"') as house:
        found = await house.run("for i in $(seq 100000); do echo $i; done")
        data = b"".join(b"%d\n" % n for n in range(1, 100_001))
        captured, dropped = found["output"]["captured"], found["output"]["dropped"]
        assert captured == len(data)
        assert dropped > 0
        whole = await house.output(found["id"])
        assert (whole.status, whole.body) == (200, data[dropped:])
        assert whole.headers["x-output-offset"] == str(dropped)
        assert (await house.output(found["id"], f"?offset={dropped}")).body == data[dropped:]
        assert (await house.output(found["id"], f"?offset={dropped - 1}")).status == 416
        assert (await house.output(found["id"], Range="bytes=0-9")).status == 416
        assert (await house.output(found["id"], Range=f"bytes={captured - 10}-")).body == data[-10:]
        assert found["logs"] == data[-65536:].decode()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_hundred_readers_of_much(tmp_path, reactor):
    """Of a job that writes 30 MB."""
    async with opened(tmp_path, reactor) as house:
        job = await house.post(command="head -c 30000000 /dev/urandom")
        readers = [follow(house, job["id"]) for _ in range(100)]
        *found, _ = await gather(*readers, house.put(job["id"], "started"))
        assert len(set(found)) == 1
        assert (found[0][0], found[0][2]) == (30_000_000, True)
