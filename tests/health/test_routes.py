"""The hub's own paths."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from datahub import __version__
from datahub.health import Health
from tests.web.memory import Client, Wire, make_site

TOKEN = {"Authorization": "Bearer bob-token"}


async def fine() -> None:
    """A part that is well."""


async def ill() -> str:
    return "db7.example.org:5432 refuses connections"


async def broken() -> str:
    raise RuntimeError("/internal/path")


def hanging() -> Deferred[str | None]:
    return Deferred()


class Hub:
    """Health and its surroundings."""

    def __init__(self, vital=None, others=None) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.draining = False
        self.health = Health("hub1", 1000.0, vital or {}, others or {}, lambda: self.draining, self.clock)
        self.site = make_site([self.health.app], anonymous=(), clock=self.clock)
        self.client = Client(self.site)

    async def get(self, path: str, **headers):
        return await self.client.ask("GET", path, headers=headers)


async def test_health_of_a_hub_that_is_well():
    """Everybody may ask; the answer says what runs where, since when, and that each part is ok."""
    hub = Hub({"database": fine}, {"queue": fine})
    hub.clock.advance(61.9)
    reply = await hub.get("/health")
    assert reply.status == 200
    assert reply.json == {
        "status": "ok",
        "node": "hub1",
        "version": __version__,
        "uptime": 61,
        "parts": {"database": "ok", "queue": "ok"},
    }


async def test_health_is_200_whatever_the_parts_say():
    """A part that is ill is told, but the process answers; strangers learn no names of hosts."""
    hub = Hub({"database": ill}, {"queue": broken})
    with capturedLogs() as events:
        reply = await hub.get("/health")
        known = await hub.get("/health", **TOKEN)
    assert (reply.status, reply.json["status"]) == (200, "ok")
    assert reply.json["parts"] == {"database": "unavailable", "queue": "unavailable"}
    assert known.json["parts"] == {"database": "db7.example.org:5432 refuses connections", "queue": "its check failed"}
    assert [event["part"] for event in events if "part" in event] == ["queue", "queue"]


async def test_ready():
    """A hub whose vital parts are well takes work, whatever the others say."""
    reply = await Hub({"database": fine}, {"queue": ill}).get("/ready")
    assert (reply.status, reply.json) == (200, {"ready": True, "reasons": {}})


async def test_not_ready_without_a_vital_part():
    """Without one it does not, and says why and when to ask again."""
    reply = await Hub({"database": ill, "disk": fine}).get("/ready", **TOKEN)
    assert reply.status == 503
    assert reply.json == {"ready": False, "reasons": {"database": "db7.example.org:5432 refuses connections"}}
    assert reply.headers["retry-after"] == "5"
    assert reply.headers["x-datahub-error"] == "hub.unavailable"


async def test_not_ready_while_it_drains():
    """A hub that stops says so, and stays healthy."""
    hub = Hub()
    hub.draining = True
    reply = await hub.get("/ready")
    assert (reply.status, reply.json["reasons"]) == (503, {"hub": "stopping"})
    assert (await hub.get("/health")).status == 200


@pytest.mark.parametrize(("path", "status"), [("/ready", 503), ("/health", 200)])
async def test_a_part_that_hangs(path, status):
    """A check that gives no answer in two seconds is an answer, and the others are asked meanwhile."""
    hub = Hub({"database": hanging, "queue": hanging, "disk": fine})
    wire = Wire(hub.site).send(f"GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
    hub.clock.advance(1.9)
    assert wire.replies == []
    hub.clock.advance(0.1)
    assert wire.reply.status == status
    assert wire.reply.body.count(b'"no answer within 2 s"') == 2
    wire.hang_up()


async def test_version():
    """Everybody may know what runs."""
    assert (await Hub().get("/version")).json == {"node": "hub1", "version": __version__}


async def test_whoami():
    """A caller learns his name, how it was found, and his scopes."""
    hub = Hub()
    reply = await hub.get("/whoami", **TOKEN)
    assert reply.json == {"name": "bob", "kind": "token", "scopes": ["read"], "address": "127.0.0.1"}
    reply = await hub.get("/whoami")
    assert (reply.json["name"], reply.json["kind"], reply.json["scopes"]) == ("anonymous@127.0.0.1", "anonymous", [])
    assert (await hub.get("/whoami", Authorization="Bearer wrong")).status == 401


async def test_a_clock_that_was_set_back():
    """The time since the start is never below nothing."""
    hub = Hub()
    hub.clock.rightNow = 500.0
    assert (await hub.get("/health")).json["uptime"] == 0
