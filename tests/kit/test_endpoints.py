"""Endpoint strings, checked without opening anything."""

from __future__ import annotations

import pytest

from datahub.kit.endpoints import parse_endpoint


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("tcp:8080:interface=127.0.0.1", True),
        ("tcp:port=0:interface=localhost", True),
        ("tcp:8080:interface=127.9.9.9:backlog=5", True),
        (r"tcp6:8080:interface=\:\:1", True),
        ("unix:/run/datahub.sock:mode=660", True),
        ("tcp:8080", False),
        ("tcp:8080:interface=0.0.0.0", False),
        ("tcp:8080:interface=", False),
        ("tcp:8080:interface=hub.example.org", False),
        ("systemd:domain=INET:name=http", False),
    ],
)
def test_who_can_reach_it(text: str, local: bool) -> None:
    """Loopback and unix sockets are local; what is not known to be is not."""
    assert parse_endpoint(text).local is local


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8080", "must start with tcp:"),
        ("", "must start with tcp:"),
        ("tcp", "the port is missing"),
        ("tcp:", "the port is missing"),
        ("tcp:http", "the port must be a number"),
        ("tcp:65536", "the port must be a number"),
        ("tcp:8080:127.0.0.1", 'takes backlog, interface, port, not "127.0.0.1"'),
        ("tcp:8080:iface=127.0.0.1", 'not "iface=127.0.0.1"'),
        ("unix:mode=660", "the address is missing"),
    ],
)
def test_wrong_endpoint_says_what_would_be_right(text: str, reason: str) -> None:
    """Each mistake is named with what would be right."""
    with pytest.raises(ValueError) as caught:
        parse_endpoint(text)
    assert reason in str(caught.value)
