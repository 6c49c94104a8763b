"""A fake Mesos as a process of its own: ``python -m tests.fakes.mesos_process FOLDER TASKS``.

It has one master, and one agent with a running task ``big`` whose sandbox is FOLDER, among TASKS others. It prints a
line of JSON with the ports of the master and of its own books, which say how often what was asked for.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.fakes.mesos import Cluster, Sending
from tests.fakes.mesos_states import AGENT, agent_state, directory, executor, framework, master_state, task

FILLER = "x" * 700


class Books(Resource):
    """What was asked for, and sent."""

    isLeaf = True

    def __init__(self, fake: Cluster) -> None:
        super().__init__()
        self._fake = fake

    def render_GET(self, request: Any) -> bytes:
        """Tell it."""
        agent = self._fake.agents[AGENT]
        return json.dumps(
            {
                "state": self._fake.count("/state"),
                "bytes": len(self._fake.encoded),
                "sent": Sending.sent,
                "left": agent.left,
                "asked": len(agent.asked),
            }
        ).encode()


def cluster(folder: Path, tasks: int) -> Cluster:
    """The fake; its filling tasks are those of one Marathon."""
    filling = [
        {**task(f"app-{number}.{number:032x}", f"app-{number}.deployment-{number}"), "labels": [{"key": FILLER}]}
        for number in range(tasks)
    ]
    fake = Cluster(master_state([framework(tasks=[task("big", "big.deployment"), *filling])]))
    agent = fake.add_agent(AGENT, agent_state([executor("big", "c1", tasks=["big"])]))
    agent.files.attach(directory("big", "c1"), folder)
    fake.add_master()
    return fake


def main(arguments: list[str]) -> None:
    """Be the program."""
    from twisted.internet import reactor

    fake = cluster(Path(arguments[0]), int(arguments[1]))
    fake.listen(reactor)
    loop: Any = reactor
    books = loop.listenTCP(0, Site(Books(fake)), interface="127.0.0.1")
    ports = {"master": fake.masters[0].number, "books": books.getHost().port, "bytes": len(fake.encoded)}
    sys.stdout.write(json.dumps({**ports, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1:])
