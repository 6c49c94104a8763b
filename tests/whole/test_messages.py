"""Messages by the real daemon: the replaced service's test client over TLS, kills, and a Redis that goes and comes."""

from __future__ import annotations

import json
import ssl
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import self_signed_pem
from tests.redis_server import own_redis
from tests.whole.daemon import Daemon, Lost, free_port, until
from tests.whole.site import Site

JSON = {"Content-Type": "application/json"}
FOO = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
BAR = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"
CLIENTS = 16


def post(daemon: Daemon, text: str) -> str | None:
    """Post a message: its digest, or None when it was not acknowledged."""
    try:
        answer = daemon.call("POST", "/messages", json.dumps({"message": text}), JSON)
    except Lost:
        return None
    assert answer.status in (201, 503), answer
    if answer.status == 503:
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json["err_msg"]
        return None
    return str(answer.json["digest"])


def post_until_killed(daemon: Daemon, enough: int, kill: Any) -> dict[str, str]:
    """Post messages from many sides, and call ``kill`` in the middle; gives what was acknowledged, by digest."""
    kept: dict[str, str] = {}

    def client(number: int) -> None:
        for turn in range(1000):
            text = f"client {number}, message {turn}"
            digest = post(daemon, text)
            if digest is None:
                return
            kept[digest] = text

    with ThreadPoolExecutor(CLIENTS) as threads:
        for number in range(CLIENTS):
            threads.submit(client, number)
        until(lambda: len(kept) >= enough, f"{enough} messages")
        kill()
    assert enough <= len(kept) < 1000 * CLIENTS
    return kept


def check_kept(daemon: Daemon, kept: dict[str, str]) -> None:
    """Hold that every message that was acknowledged is given back."""
    for digest, text in kept.items():
        assert sha256(text.encode()).hexdigest() == digest
        answer = daemon.call("GET", f"/messages/{digest}")
        assert (answer.status, answer.json) == (200, {"message": text})


def test_the_replaced_services_test_client_over_tls(site: Site) -> None:
    """Its steps, with its certificate checks, on a host that knows only the certificate."""
    (site.folder / "localhost.pem").write_bytes(self_signed_pem("localhost"))
    port = free_port()
    hub = site.hub(
        sections={"listen.tls": {"certificate": "localhost.pem", "key": "localhost.pem"}},
        listens=["tcp:0:interface=127.0.0.1", f"tcp:{port}:interface=127.0.0.1"],
    )
    hub.spawn()
    trust = ssl.create_default_context(cafile=str(site.folder / "localhost.pem"))

    def ask(method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        connection = HTTPSConnection("localhost", port, context=trust, timeout=60)
        try:
            connection.request(method, path, body, JSON if body else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def answers() -> bool:
        try:
            return ask("GET", "/version")[0] == 200
        except OSError:
            return False

    until(answers, "a hub that speaks TLS")
    unknown = "a" * 64
    assert ask("GET", f"/messages/{unknown}") == (404, {"err_msg": f"Message not found for hash: {unknown}"})
    assert ask("POST", "/messages", '{"message": "foo"}') == (201, {"digest": FOO})
    assert ask("GET", f"/messages/{FOO}") == (200, {"message": "foo"})
    assert ask("POST", "/messages", '{"message": "bar"}') == (201, {"digest": BAR})
    assert ask("GET", f"/messages/{BAR}") == (200, {"message": "bar"})
    assert ask("GET", f"/messages/{FOO}") == (200, {"message": "foo"})
    hub.stop()


def test_killed_while_messages_come(site: Site) -> None:
    """After the next start every message that was acknowledged is there."""
    hub = site.hub()
    hub.start()
    kept = post_until_killed(hub, 300, hub.kill)
    hub.start()
    check_kept(hub, kept)
    assert "client 0" not in hub.log
    hub.stop()


@pytest.mark.engine
@pytest.mark.parametrize("who", ["the hub", "Redis"])
def test_killed_while_messages_go_to_redis(site: Site, tmp_path: Path, who: str) -> None:
    """Whoever is killed: a 503 that says when to ask again, or no answer; back again, nothing is lost."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with own_redis(folder) as redis:
        hub = site.hub(sections={"messages": {"url": redis.url}})
        hub.start()
        if who == "the hub":
            kept = post_until_killed(hub, 300, hub.kill)
            hub.start()
        else:
            kept = post_until_killed(hub, 300, redis.kill)
            assert post(hub, "while Redis is away") is None
            health = hub.call("GET", "/health").json
            assert (health["parts"]["messages"], health["parts"]["database"]) == ("unavailable", "ok")
            assert hub.call("GET", "/ready").status == 200
            redis.start()
        until(lambda: post(hub, "foo") == FOO, "a message is taken again")
        check_kept(hub, {**kept, FOO: "foo"})
        hub.stop()
