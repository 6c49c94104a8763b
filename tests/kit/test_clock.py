"""Time: for timers, for what is due, and for people."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from datahub.kit.clock import HubClock, make_steady, monotonic, rfc3339

HOUR = 3_600_000
YEAR_9999 = 253_402_300_799_999


def test_monotonic_only_grows():
    """By about what time has gone by."""
    before = monotonic()
    time.sleep(0.01)
    assert 0.01 <= monotonic() - before < 60


def test_a_steady_reactor_does_not_know_the_wall_clock(monkeypatch):
    """Its timers stay where they are when somebody sets the time."""
    reactor = SimpleNamespace(seconds=time.time)
    make_steady(reactor)
    before = reactor.seconds()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= reactor.seconds() - before < 60


def test_rfc3339():
    """Always with milliseconds and always in UTC."""
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_772_357_400_250) == "2026-03-01T09:30:00.250Z"


@given(st.integers(0, YEAR_9999))
def test_rfc3339_loses_no_millisecond(milliseconds):
    """Read again it is the very moment, and texts sort as moments do."""
    text = rfc3339(milliseconds)
    read = datetime.fromisoformat(text)
    assert round((read - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000) == milliseconds
    assert rfc3339(min(milliseconds + 1, YEAR_9999)) >= text


def test_the_hubs_clock_is_set_by_the_database():
    """Whatever the machine's own clock counts from, both times are the database's."""
    clock = HubClock(lambda: 900.0)
    clock.set(5_000_000, 0)
    assert clock.now() == clock.wall() == 5_000_000


def test_the_hubs_clock_is_carried_on_by_the_steady_one():
    """In whole milliseconds."""
    steady = Clock()
    clock = HubClock(steady.seconds)
    clock.set(1_000, 0)
    steady.advance(1.2345)
    assert clock.now() == 2_234
    assert isinstance(clock.now(), int)


def test_the_offset_divides_people_from_what_is_due():
    """The database's clock set forward by an hour is seen by people only, if the cluster takes the hour off."""
    clock = HubClock(lambda: 0.0)
    clock.set(10_000, 0)
    clock.set(10_000 + HOUR, -HOUR)
    assert clock.now() == 10_000
    assert clock.wall() == 10_000 + HOUR


@given(st.integers(0, YEAR_9999), st.integers(-HOUR, HOUR), st.integers(0, 10**9))
def test_drift_is_what_set_corrects(database, offset, steady):
    """It is the distance before, and nothing after."""
    clock = HubClock(lambda: float(steady))
    assert clock.drift(database, offset) == database + offset - clock.now()
    clock.set(database, offset)
    assert clock.drift(database, offset) == 0
    assert clock.wall() == database
