"""Which requests a web page can't make, and whose address counts behind a proxy."""

from __future__ import annotations

from typing import Any

import pytest

from datahub.config import ListenSection
from datahub.errors import Misdirected, NotPermitted
from datahub.web.app import App, Call
from datahub.web.guard import Guard, guard_of
from tests.web.memory import Client, make_site

HERE = "tcp:8080:interface=127.0.0.1"


class Shop:
    """One operation that reads, one that changes."""

    app = App()

    @app.operation("GET", "/shop", scope="")
    async def look(self, call: Call) -> dict[str, Any]:
        return {"address": call.address}

    @app.operation("POST", "/shop", scope="write")
    async def buy(self, call: Call) -> dict[str, Any]:
        return {"bought": True}


def client(guard: Guard) -> Client:
    return Client(make_site([Shop().app], guard=guard))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1:8080",
        "10.1.2.3",
        "[::1]:8080",
        "::1",
        "hub.example.org",
    ],
)
def test_names_of_ours(host):
    """Loopback, addresses in figures, and the names that were given, in any case and with any port."""
    Guard(["Hub.Example.org."]).check_host(host)
    Guard().check_host("anything")
    Guard([]).check_host(None)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "a:b:c"])
async def test_names_that_are_not(host):
    """Any other name is 421, whatever is asked for, and told how it can be allowed."""
    with pytest.raises(Misdirected, match="hosts"):
        Guard(["hub.example.org"]).check_host(host)
    for path in ("/shop", "/", "/nothing"):
        reply = await client(Guard([])).ask("GET", path, headers={"Host": "evil.example"})
        assert (reply.status, reply.headers["x-datahub-error"]) == (421, "request.host")
        assert "'evil.example'" in reply.json["detail"]


def test_which_listeners_check_names():
    """Those on loopback, and those that were given names; a socket file is out of a browser's reach."""

    def refuses(section: ListenSection) -> bool:
        try:
            guard_of(section, "https://hub.example.org/").check_host("evil.example")
        except Misdirected:
            return True
        return False

    assert refuses(ListenSection(HERE))
    assert refuses(ListenSection("tcp:8080", hosts=("a.example",)))
    assert not refuses(ListenSection("tcp:8080"))
    assert not refuses(ListenSection("unix:/run/datahub.sock"))
    guard_of(ListenSection(HERE), "https://hub.example.org/").check_host("hub.example.org:443")


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://hub"}, True),
        ({"Origin": "http://hub:81"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, True),
    ],
)
async def test_changes_by_a_page_of_another_site(headers, allowed):
    """They are refused, by what the browser says; reading is for everybody, and can't be read there."""
    shop = client(Guard())
    reply = await shop.ask("POST", "/shop", headers=headers)
    assert reply.status == (200 if allowed else 403)
    assert allowed or reply.headers["x-datahub-error"] == "request.cross_site"
    assert (await shop.ask("GET", "/shop", headers=headers)).status == 200
    with pytest.raises(NotPermitted):
        Guard().check_origin("cross-site", None, "hub")


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "caller"),
    [
        ((), "10.0.0.1", ["1.2.3.4"], "10.0.0.1"),
        (["10.0.0.1"], "10.0.0.1", [], "10.0.0.1"),
        (["10.0.0.1"], "10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (["10.0.0.1"], "10.0.0.2", ["1.2.3.4"], "10.0.0.2"),
        (["10.0.0.0/8"], "10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.0.0.7"], "1.2.3.4"),
        (["10.0.0.0/8"], "10.0.0.1", ["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
        (["10.0.0.1"], "10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        (["10.0.0.1"], "10.0.0.1", ["[2001:db8::1]:5678"], "2001:db8::1"),
        (["10.0.0.1"], "10.0.0.1", ["1.2.3.4, rubbish"], "10.0.0.1"),
        (["unix"], "unix", ["1.2.3.4"], "1.2.3.4"),
        (["127.0.0.1"], "unix", ["1.2.3.4"], "unix"),
        (["::1"], "nonsense", ["1.2.3.4"], "nonsense"),
    ],
)
def test_the_callers_address(proxies, peer, forwarded, caller):
    """What trusted proxies have added counts, from the right; what a caller writes himself does not."""
    assert Guard(None, proxies).address(peer, forwarded) == caller


async def test_the_callers_address_in_a_request():
    """It is the one that limits, logs and events know."""
    reply = await client(Guard(None, ["0.0.0.0/0"])).ask("GET", "/shop", headers={"X-Forwarded-For": "1.2.3.4"})
    assert reply.json["address"] in {"1.2.3.4", "unix"}
