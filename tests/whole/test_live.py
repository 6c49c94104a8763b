"""What goes on while one looks: events listed and followed, a record watched and waited for, over real connections."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from tests.whole.daemon import SOON, Daemon, crashing
from tests.whole.site import BIG, FILE, Site

SLOW_COPY = crashing("datahub.transfers.pipeline:Pipeline._count:pause:0.3")


@pytest.fixture
def hub(site: Site) -> Daemon:
    """Give a hub whose copies take their time."""
    daemon = site.hub(sections={"auth": {"anonymous": ["read", "write", "admin"]}})
    daemon.start(SLOW_COPY)
    return daemon


@contextmanager
def stream(hub: Daemon, path: str, headers: Mapping[str, str] | None = None) -> Iterator[HTTPResponse]:
    """Give an answer that goes on."""
    with closing(HTTPConnection("127.0.0.1", hub.port, timeout=SOON)) as connection:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        yield answer


def lines(answer: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The objects of a stream of JSON lines; signs of life are left out."""
    yield from (json.loads(line) for line in answer if line.strip())


def sent(answer: HTTPResponse) -> Iterator[tuple[int, dict[str, Any]]]:
    """The position and the object of each server-sent event."""
    position = 0
    for line in answer:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "id":
            position = int(value)
        elif name == "data":
            yield position, json.loads(value)


def until_final(events: Iterator[Any], job: str) -> list[Any]:
    """What comes up to the end of ``job``."""
    found = []
    for each in events:
        found.append(each)
        event = each[1] if isinstance(each, tuple) else each
        if (event["subject"], event["to"]) == (job, "SUCCESS"):
            return found
    raise AssertionError(f"the stream ended before {job} did: {found}")


def listed(hub: Daemon, query: str) -> list[dict[str, Any]]:
    """All events, page by page of two."""
    found, after = list[dict[str, Any]](), 0
    while True:
        page = hub.call("GET", f"/events?limit=2&after={after}{query}").json
        if not page["items"]:
            return found
        found += page["items"]
        after = page["next"]


def test_events_are_followed_and_gone_on_with(site: Site, hub: Daemon) -> None:
    """A follower who is cut off and comes back with the last position has seen each event once, in order."""
    first = site.submit(hub, FILE)
    with stream(hub, "/events?follow=1&after=0", {"Accept": "text/event-stream"}) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        seen = until_final(sent(answer), first)
    second = site.submit(hub, BIG)
    with stream(hub, "/events?follow=1", {"Accept": "text/event-stream", "Last-Event-ID": str(seen[-1][0])}) as answer:
        seen += until_final(sent(answer), second)
    assert [event for _, event in seen] == listed(hub, "")
    assert [position for position, _ in seen] == sorted({position for position, _ in seen})

    with stream(hub, f"/events?follow=1&after=0&subject={second}&type=transfer.success") as answer:
        (only,) = until_final(lines(answer), second)
    assert only in listed(hub, f"&subject={second}")
    assert hub.call("GET", f"/transfers/{second}/events").json["items"] == listed(hub, f"&subject={second}")


def test_an_event_that_is_no_position(hub: Daemon) -> None:
    """400 that names the header."""
    answer = hub.call("GET", "/events?follow=1", headers={"Last-Event-ID": "yesterday"})
    assert (answer.status, answer.json["field"]) == (400, "Last-Event-ID")


def test_a_record_is_watched_and_waited_for(site: Site, hub: Daemon) -> None:
    """The record now and after each change, a clean end when it is final; or one answer, when it is."""
    job = site.submit(hub, BIG)
    with stream(hub, f"/transfers/{job}?watch=1") as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        records = list(lines(answer))
    assert {each["job_id"] for each in records} == {job}
    states = list(dict.fromkeys(each["status"] for each in records))
    assert states[-1] == "SUCCESS"
    assert states == [each for each in ("SUBMITTED", "STAGING", "TRANSFERRING", "SUCCESS") if each in states]
    assert len(states) > 1

    job = site.submit(hub, BIG)
    waited = hub.call("GET", f"/transfers/{job}?wait=50s").json
    assert waited["status"] == "SUCCESS"
    with stream(hub, f"/transfers/{job}?watch=1") as answer:
        assert list(lines(answer)) == [waited]
    soon = hub.call("GET", f"/transfers/{site.submit(hub, BIG)}?wait=1s").json
    assert soon["status"] in {"SUBMITTED", "STAGING", "TRANSFERRING", "SUCCESS"}


def test_a_list_goes_on_behind_its_cursor(site: Site, hub: Daemon) -> None:
    """Pages neither double nor hide what is there, while more comes; the newest first, or the oldest."""
    jobs = [site.submit(hub, FILE) for _ in range(5)]
    page = hub.call("GET", "/transfers?limit=2&order=old")
    found = [each["job_id"] for each in page.json["items"]]
    jobs.append(site.submit(hub, FILE))
    while page.json["next"] is not None:
        assert 'rel="next"' in page.headers["Link"]
        page = hub.call("GET", f"/transfers?limit=2&order=old&after={page.json['next']}")
        found += [each["job_id"] for each in page.json["items"]]
    assert found == jobs
    hub.await_final(jobs)
    done = hub.call("GET", "/transfers?status=SUCCESS").json
    assert [each["job_id"] for each in done["items"]] == jobs[::-1]
    assert hub.call("GET", "/transfers?status=ERROR,CANCELLED").json["items"] == []
    assert hub.call("GET", "/summary").json["transfers"]["last_hour"]["SUBMITTED"]["count"] == 6
