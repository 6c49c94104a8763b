"""What systemd is told, by a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from datahub.kit.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, Notifier]]:
    """A service manager's end of the socket, and what tells it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@datahub-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        end.settimeout(45)
        yield end, Notifier({"NOTIFY_SOCKET": name})


def test_each_state_is_one_datagram(manager: tuple[socket.socket, Notifier]) -> None:
    """Ready, status and stopping arrive as sd_notify(3) writes them."""
    end, notifier = manager
    notifier.ready()
    notifier.status("moving\n3 files\nREADY=0")
    notifier.stopping()
    assert [end.recv(1000) for _ in range(3)] == [b"READY=1", b"STATUS=moving 3 files READY=0", b"STOPPING=1"]


def test_without_systemd_nothing_is_sent() -> None:
    """A daemon that systemd did not start tells nobody."""
    Notifier({}).ready()


@pytest.mark.parametrize("name", ["/nowhere/at/all", "@" + "x" * 200, "/with\0nul"])
def test_deaf_manager_does_not_hurt(name: str) -> None:
    """A socket that can't be reached is no reason to fail."""
    Notifier({"NOTIFY_SOCKET": name}).ready()


def test_manager_that_does_not_read_never_blocks(manager: tuple[socket.socket, Notifier]) -> None:
    """When the manager's buffer is full the message is dropped."""
    end, notifier = manager
    for _ in range(2000):
        notifier.status("x" * 1000)
    assert end.recv(2000).startswith(b"STATUS=x")
