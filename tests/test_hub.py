"""The composition: a whole hub in this process, on the real reactor, started and stopped."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import treq
from twisted.logger import capturedLogs

from datahub import hub as hub_module
from datahub.config import load
from datahub.errors import StartError
from datahub.hub import Hub, make_hub
from datahub.kit.locks import FileLock
from tests.waiting import until

CONFIG = """
[hub]
state = "{folder}/state"
node = "hub1"
min_free = "0 B"
{hub}
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
anonymous = ["read", "write"]
[archive]
url = "file://{folder}/archive"
[transfers.movers]
file = "local:{folder}/deliveries"
[log]
directory = "log"
"""


class House:
    """A folder with an archive and room for deliveries, and hubs over it."""

    def __init__(self, folder: Path, reactor: Any) -> None:
        self.folder, self.reactor = folder, reactor
        self.port = free_port()
        for name in ("archive", "deliveries"):
            (folder / name).mkdir()
        (folder / "archive" / "005").write_bytes(b"content")
        self.threads = set(threading.enumerate())

    def hub(self, hub: str = "") -> Hub:
        path = self.folder / "datahub.toml"
        path.write_text(CONFIG.format(folder=self.folder, port=self.port, hub=hub))
        made = make_hub(load(path, {}), self.reactor)
        assert isinstance(made, Hub)
        return made

    async def ask(self, method: str, path: str, **arguments: Any) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}"
        response = await treq.request(method, url, persistent=False, reactor=self.reactor, **arguments)
        return await response.json()

    def left(self) -> list[str]:
        """Name what a hub has left behind in the process: threads, locks, its port."""
        # In the reactor's own threads the tests' client looks up its host.
        new = [each.name for each in threading.enumerate() if each not in self.threads]
        found = [name for name in new if "twisted.internet.reactor" not in name]
        for path in (self.folder / "state").glob("*.lock"):
            lock = FileLock(path)
            if not lock.acquire():
                found.append(str(path))
            lock.release()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                found.append("the port")
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def house(tmp_path, reactor, monkeypatch):
    # The tests' own timers run on this reactor, too.
    monkeypatch.setattr(hub_module, "make_steady", lambda _: None)
    return House(tmp_path, reactor)


async def test_a_hub_delivers_and_leaves_nothing_behind(house):
    """Started, a product delivered, stopped; and again, on the same state."""
    for round_ in ("one", "two"):
        hub = house.hub()
        hub.startService()
        asked = {"product_id": "005", "destination_path": f"file://{house.folder}/deliveries/{round_}"}
        submitted = await house.ask("POST", "/submitTransfer", data=asked)
        assert submitted["error"] is False
        delivered = house.folder / "deliveries" / round_ / "005"
        await until(delivered.exists, "the product is delivered")
        assert delivered.read_bytes() == b"content"
        assert (await house.ask("GET", "/ready"))["ready"] is True
        health = await house.ask("GET", "/health")
        assert health["parts"] == {"database": "ok", "disk": "ok", "queue": "ok", "messages": "ok", "supervisor": "ok"}
        await hub.stopService()
        assert house.left() == []
    assert (house.folder / "state" / "log" / "access.log").read_text().count("/submitTransfer") == 2


async def test_a_hub_without_workers_takes_transfers_only(house):
    """Others are to do the work: it stays submitted."""
    hub = house.hub("workers = []")
    hub.startService()
    asked = {"product_id": "005", "destination_path": f"file://{house.folder}/deliveries/a"}
    number = (await house.ask("POST", "/submitTransfer", data=asked))["job_id"]
    found = await house.ask("GET", f"/transfers/{number}")
    assert found["waiting_on"]["what"] == "slot"
    await hub.stopService()
    assert house.left() == []
    assert not (house.folder / "deliveries" / "a").exists()


async def test_a_start_that_fails_half_way_leaves_nothing(house):
    """The access log can't be opened, when listeners, database and threads are there already."""
    (house.folder / "state").mkdir()
    (house.folder / "state" / "log").write_text("in the way")
    hub = house.hub()
    with pytest.raises(StartError, match=r"the access log .* can't be opened: .*; see \[log\] directory"):
        hub.startService()
    await until(lambda: not house.left(), "threads, locks and port are given up")
    (house.folder / "state" / "log").unlink()
    again = house.hub()
    again.startService()
    await again.stopService()
    assert house.left() == []


async def test_a_busy_port(house):
    """Is told before anything runs, and nothing is kept."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", house.port))
        taken.listen()
        with pytest.raises(StartError, match="the port is in use"):
            house.hub().startService()
    await until(lambda: not house.left(), "threads and locks are given up")


async def test_a_second_hub_of_the_same_state(house):
    """Is refused while the first one goes on."""
    hub = house.hub()
    hub.startService()
    with pytest.raises(StartError, match="node 'hub1' runs already"):
        house.hub().startService()
    assert (await house.ask("GET", "/version"))["node"] == "hub1"
    await hub.stopService()
    assert house.left() == []


async def test_a_state_folder_that_can_not_be(house):
    """The text names the folder, the reason, the user and the key."""
    (house.folder / "state").write_text("a file")
    hub = house.hub()
    with pytest.raises(StartError, match=r"the state folder .*/state can't be written .*user .*\[hub\] state"):
        hub.startService()


async def test_steady_time_comes_first(house, monkeypatch):
    """Before anything is scheduled: a timer of the wall clock would stand still when that is set back."""
    seen = []

    def steady(reactor):
        seen.append((reactor, house.left()))
        raise StartError("enough")

    monkeypatch.setattr(hub_module, "make_steady", steady)
    with capturedLogs(), pytest.raises(StartError, match="enough"):
        house.hub().startService()
    assert seen == [(house.reactor, [])]
