"""datahub.queues.amqp without a broker: its address, its window, its complaints."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from datahub.errors import StartError
from datahub.queues.amqp import WINDOW, AmqpQueue, Announcer
from datahub.queues.broker import Broker

NOWHERE: Any = object()


def test_complaints_are_a_minute_apart():
    """However often the broker fails, one line a minute is written."""
    clock = Clock()
    queue = AmqpQueue("amqp://127.0.0.1/", clock, endpoint=NOWHERE)
    with capturedLogs() as events:
        for _ in range(121):
            queue._complain("refused")
            clock.advance(1)
    assert len(events) == 3


class Channel:
    """Confirms when the test says so."""

    def __init__(self):
        self.published = []

    def basic_publish(self, **message):
        confirmed = Deferred()
        self.published.append((message["routing_key"], confirmed))
        return confirmed


def test_the_window_of_unconfirmed_messages_holds():
    """At most 256 are unconfirmed; what is announced beyond waits as one message a lane."""
    channel = Channel()
    announcer = Announcer(channel, lambda lane: f"datahub.{lane}")
    for _ in range(1000):
        announcer.announce("one")
        announcer.announce("two")
    assert len(channel.published) == WINDOW
    for _, confirmed in channel.published[:WINDOW]:
        confirmed.callback(None)
    assert [key for key, _ in channel.published[WINDOW:]] == ["datahub.one", "datahub.two"]


def test_a_refused_publication_frees_its_place():
    """Messages that fail are dropped, silently, and do not use up the window."""
    channel = Channel()
    announcer = Announcer(channel, lambda lane: lane)
    for _ in range(WINDOW):
        announcer.announce("lane")
    for _, confirmed in channel.published[:]:
        confirmed.errback(ConnectionError("closed"))
    announcer.announce("lane")
    assert len(channel.published) == WINDOW + 1


def test_a_channel_that_raises_is_no_fault_of_the_announcer():
    """announce() never raises, whatever the library does."""

    class Broken:
        def basic_publish(self, **message):
            raise RuntimeError("the channel is closing")

    Announcer(Broken(), lambda lane: lane).announce("lane")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis://h/", "redis"),
        ("amqp://", "no host"),
        ("amqp://a:s3cr3t@h:port/", "ort"),
        ("amqp://a:s3cr3t@h/?heartbeat=0", "virtual host"),
    ],
)
def test_a_wrong_url_is_told_without_the_password(url, what):
    """An address that is none says what is wrong and what would be right."""
    with pytest.raises(StartError) as wrong:
        AmqpQueue(url, Clock())
    text = str(wrong.value)
    assert text.startswith("queue.url: ")
    assert what in text
    assert "amqp://user:password@host" in text
    assert "s3cr3t" not in text


def test_an_address_is_read_with_its_escapes():
    """User, password and virtual host are percent-decoded; what is left out is the broker's default."""
    full = Broker.parse("amqps://al%40ice:p%2Fw@queue.example.org/a%2Fb")
    assert (full.user, full.password, full.vhost, full.port) == ("al@ice", "p/w", "a/b", 5671)
    least = Broker.parse("amqp://queue.example.org")
    assert (least.user, least.password, least.vhost, least.port) == ("guest", "guest", "/", 5672)
    assert full.name == "amqps://queue.example.org:5671"
    assert "p/w" not in repr(full)
