"""Carts of two daemons on one database, one broker and one folder of copies, before one remote archive."""

from __future__ import annotations

import io
import json
import random
import socket
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from datahub.files import path_of_url
from tests.fakes.served import ServedArchive
from tests.servers import amqp_url
from tests.whole.daemon import Daemon, until
from tests.whole.queues import empty_queues
from tests.whole.site import Site

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

LANES = ("carts.stage", "carts.fetch", "carts.digest")
SIZE = 200_000
SPACE = 60 * SIZE
HELD = "SELECT name, place, size FROM holding WHERE state = 'held'"


@dataclass
class Two:
    """Hubs ``a`` and ``b``, the archive they fetch from, and the folder they keep copies in."""

    site: Site
    archive: ServedArchive
    copies: Path
    a: Daemon
    b: Daemon

    def post(self, hub: Daemon, uid: str, *names: str) -> None:
        body = {"fileids": [{"id": name, "path": f"d/{name}"} for name in names]}
        assert hub.call("POST", f"/{uid}", json.dumps(body)).status == 201

    def ready(self, hub: Daemon, uid: str) -> None:
        told = hub.call("GET", f"/carts/{uid}?wait=40s&limit=0", seconds=50).json
        assert told["status"] == "ready", told

    def check_tar(self, hub: Daemon, uid: str, *names: str) -> None:
        check_tar(got(hub, uid), self.archive, *names)

    def check_room(self) -> None:
        """What the rows say is what lies there, each file once."""
        held = {path_of_url(row.place): row.size for row in self.site.rows(HELD)}
        there = {str(path): path.stat().st_size for path in self.copies.rglob("*") if path.is_file()}
        assert there == held
        assert self.site.rows("SELECT id FROM holding WHERE state <> 'held' OR owner IS NOT NULL") == []
        assert sum(there.values()) <= SPACE


def got(hub: Daemon, uid: str) -> bytes:
    with socket.create_connection(("127.0.0.1", hub.port), timeout=30) as line:
        return rest_of(line, begin(line, uid))


def begin(line: socket.socket, uid: str) -> bytes:
    """Ask for a tar; the first bytes of the answer."""
    line.sendall(f"GET /carts/{uid}/t.tar HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    return line.recv(4096)


def rest_of(line: socket.socket, first: bytes) -> bytes:
    """The body of an answer that began with ``first``, as far as it comes; its length must be as told, or it broke."""
    data = bytearray(first)
    with suppress(ConnectionResetError):
        while more := line.recv(1 << 20):
            data += more
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return body if len(body) == length else b""


def check_tar(body: bytes, archive: ServedArchive, *names: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        found = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    assert found == {f"t/d/{name}": archive.files[name] for name in names}


@pytest.fixture
def two(postgresql_site: Site, tmp_path: Path) -> Iterator[Two]:
    """Two hubs that run, with empty queues; in the end nothing of theirs is left."""
    url = amqp_url()
    chance = random.Random(1)
    files = {f"f{n}": chance.randbytes(SIZE) for n in range(45)}
    large = {f"large{n}": chance.randbytes(4 * SIZE) for n in range(20)}
    archive = ServedArchive(files | large, pause=0.02)
    copies = tmp_path / "copies"
    carts: dict[str, Any] = {
        "path": str(copies),
        "space": f"{SPACE} B",
        "evict_after": "0 s",
        "archive_concurrent": 4,
        "on_delete": "break",
    }
    sections: dict[str, dict[str, Any]] = {"queue": {"url": url}, "archive": {"url": archive.url}, "carts": carts}
    hubs = [postgresql_site.hub(node, sections) for node in ("a", "b")]
    with empty_queues(url, LANES):
        for each in hubs:
            each.spawn()
        for each in hubs:
            each.await_ready()
            until(lambda each=each: each.call("GET", "/health").json["parts"]["queue"] == "ok", "the broker")  # type: ignore[misc]
        yield Two(postgresql_site, archive, copies, *hubs)
        for each in hubs:
            if each.running:
                each.kill()
        archive.close()


def test_one_of_two_is_killed(two: Two) -> None:
    """Both fetch; after kill -9 of one nothing that is whole is fetched twice, all becomes ready, room counts once."""
    # So slow that both have their turns before all is fetched.
    two.archive.pause = 0.1
    first, second = [f"f{n}" for n in range(30)], [f"f{n}" for n in range(15, 45)]
    two.post(two.a, "one", *first)
    two.post(two.b, "two", *second)
    seen: set[str] = set()

    def both() -> bool:
        """Both have fetched, and the one to be killed does so now."""
        owners = [
            row.owner[0] for row in two.site.rows("SELECT owner FROM holding WHERE state = 'reserved'") if row.owner
        ]
        seen.update(owners)
        return seen == {"a", "b"} and "a" in owners and len(two.site.rows(HELD)) > 4

    until(both, "both at work")
    two.a.kill()
    two.archive.pause = 0.02
    whole = [row.name for row in two.site.rows(HELD)]
    two.a.start()
    for hub in (two.a, two.b):
        two.ready(hub, "one")
        two.ready(hub, "two")
    assert {name: two.archive.sent[name] for name in whole} == dict.fromkeys(whole, 1)
    assert max(two.archive.begun.values()) <= 2
    assert sum(two.archive.begun.values()) - 45 <= 4, "no more than what one had in hand"
    assert two.archive.most <= 4 + 4, "those of the dead end by themselves"
    two.check_tar(two.a, "two", *second)
    two.check_tar(two.b, "one", *first)
    two.check_room()


def test_room_while_the_other_serves(two: Two) -> None:
    """What one hub sends stays though the other needs the room; if it could not say so, it breaks, or is right."""
    two.archive.pause = 0.0
    old, new = [f"large{n}" for n in range(10)], [f"large{n}" for n in range(10, 20)]
    two.post(two.a, "old", *old)
    two.ready(two.a, "old")
    with socket.create_connection(("127.0.0.1", two.a.port), timeout=30) as line:
        first = begin(line, "old")
        two.post(two.b, "new", *new)
        waiting = lambda: two.b.call("GET", "/carts/new?limit=0").json["waiting_on"]["what"] == "room"  # noqa: E731
        until(waiting, "a cart that waits for room")
        time.sleep(1)
        assert two.b.call("GET", "/carts/old?limit=0").json["status"] == "ready"
        check_tar(rest_of(line, first), two.archive, *old)
    # A hub says only now and then which downloads have ended.
    two.site.write("UPDATE cart SET busy_until = NULL WHERE status = 'ready'")
    two.ready(two.b, "new")
    assert two.a.call("GET", "/carts/old").status == 410
    two.check_tar(two.b, "new", *new)
    two.check_room()
    two.site.write("UPDATE cart SET busy_until = NULL WHERE status = 'ready'")
    with socket.create_connection(("127.0.0.1", two.a.port), timeout=30) as line:
        first = begin(line, "new")
        two.post(two.b, "old", *old)

        def gone() -> bool:
            # It says again and again that it sends the cart.
            two.site.write("UPDATE cart SET busy_until = NULL WHERE status = 'ready'")
            return two.b.call("GET", "/carts/new?limit=0").status == 410

        until(gone, "an eviction")
        two.ready(two.b, "old")
        body = rest_of(line, first)
        if body:
            check_tar(body, two.archive, *new)
    two.check_tar(two.a, "old", *old)
    two.check_room()


def test_deleted_while_the_other_serves(two: Two) -> None:
    """With on_delete = "break" what another hub sends of the cart breaks off; other carts' downloads go on."""
    two.archive.pause = 0.0
    gone, kept = [f"large{n}" for n in range(7)], [f"large{n}" for n in range(7, 14)]
    for uid, names in (("gone", gone), ("kept", kept)):
        two.post(two.a, uid, *names)
        two.ready(two.a, uid)
    with slow_line(two.b) as line, slow_line(two.b) as other:
        begin(line, "gone")
        first = begin(other, "kept")
        assert two.a.call("DELETE", "/gone").status == 200
        with pytest.raises(ConnectionResetError):
            drain(line)
        check_tar(rest_of(other, first), two.archive, *kept)


def slow_line(hub: Daemon) -> socket.socket:
    """A connection of which the hub can't send much ahead."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    line.settimeout(30)
    line.connect(("127.0.0.1", hub.port))
    return line


def drain(line: socket.socket) -> None:
    """Read as slowly as an answer's end takes longer than a signal."""
    while line.recv(4096):
        time.sleep(0.05)
    raise AssertionError("the answer had an end")
