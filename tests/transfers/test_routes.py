"""Transfers over HTTP: the prototype's fields, texts and codes, and our own grammar."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from datahub.errors import Unavailable
from datahub.kit.aio import start
from datahub.transfers import tables
from tests.transfers.depot import Depot
from tests.web.memory import Client

ALICE = {"Authorization": "Bearer alice-token"}
BOB = {"Authorization": "Bearer bob-token"}
ROOT = {"Authorization": "Bearer root-token"}
ASKED = {"product_id": "005", "destination_path": "file:///d/alice"}


@pytest.fixture
def depot():
    depot = Depot()
    yield depot
    depot.end()


@pytest.fixture
def client(depot):
    return depot.client()


async def submit(client: Client, fields=None, *, by=ALICE, **headers):
    return await client.ask("POST", "/submitTransfer", data=fields or ASKED, headers={**by, **headers})


async def status(client: Client, number: str, *, by=ALICE):
    return await client.ask("GET", f"/transferStatus?job_id={number}", headers=by)


def refused(msg):
    return {"msg": msg, "job_id": None, "error": True}


FORM = "application/x-www-form-urlencoded"
PARTS = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in ASKED.items()]
MULTIPART = "".join([*PARTS, "--b--\r\n"]).encode()


@pytest.mark.parametrize("how", ["form", "query", "json", "json without a type", "multipart"])
async def test_a_submission(depot, client, how):
    """By form, query string, JSON or multipart: 202 in the prototype's words, and where to look."""
    url = "/submitTransfer"
    arguments: Any = {
        "form": {"data": ASKED},
        "query": {"params": ASKED},
        "json": {"json": ASKED},
        "json without a type": {"data": json.dumps(ASKED).encode()},
        "multipart": {"data": MULTIPART},
    }[how]
    kind = {"Content-Type": "multipart/form-data; boundary=b"} if how == "multipart" else {}
    reply = await client.ask("POST", url, headers={**ALICE, **kind}, **arguments)
    assert reply.status == 202
    number = reply.json["job_id"]
    assert reply.json == {"job_id": number, "error": False, "msg": "Job submission processed successfully"}
    assert str(UUID(number)) == number
    assert reply.headers["location"] == f"/transfers/{number}"
    assert reply.headers["content-type"] == "application/json"
    assert reply.body.endswith(b"\n")
    assert depot.transfer(number).submitter == "alice"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"x": "1"},
            (
                "x is not a field of this request; its fields are: product_id, destination_path, overwrite, checksum, "
                "priority, deadline"
            ),
        ),
        ({"destination_path": "file:///d/a"}, "Form did not specify product_id"),
        ({"product_id": "", "destination_path": ""}, "Form did not specify product_id"),
        ({"product_id": "005"}, "Form did not specify destination_path"),
        ({"product_id": "005", "destination_path": ""}, "Form did not specify destination_path"),
        ({**ASKED, "overwrite": "perhaps"}, "overwrite is 'perhaps'; it must be true or false"),
        ({**ASKED, "checksum": "x"}, None),
        ({**ASKED, "product_id": "a\0b"}, "product_id holds a NUL character, which no text here may"),
        ({**ASKED, "product_id": "../x"}, None),
        (
            {**ASKED, "destination_path": "file:///d/\0"},
            "destination_path holds a NUL character, which no text here may",
        ),
    ],
)
async def test_a_wrong_submission(depot, client, fields, text):
    """400 in the prototype's shape, naming the field; nothing is written."""
    reply = await submit(client, fields)
    assert reply.status == 400
    assert reply.json == refused(text or reply.json["msg"])
    assert reply.headers["x-datahub-error"].startswith("request.")
    assert depot.store.names == []


async def test_the_seeds_own_example(client):
    """No mover for gsiftp yet: 400 with the schemes that have one."""
    reply = await submit(client, {**ASKED, "destination_path": "gsiftp://user@host.example.org/path"})
    assert reply.status == 400
    assert reply.json == refused(
        "destination_path 'gsiftp://user@host.example.org/path' must be a URL of a scheme that has a mover here: file://"
    )
    assert reply.headers["x-datahub-error"] == "transfer.no_mover"


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/submitTransfer", "POST"), ("POST", "/transferStatus", "GET")]
)
async def test_a_wrong_method(client, method, path, allowed):
    """405, naming the right one."""
    reply = await client.ask(method, path, headers=ALICE)
    assert reply.status == 405
    assert allowed in reply.headers["allow"]


async def test_the_disk_at_its_reserve(depot, client):
    """507 in the prototype's shape, saying when to come again; a wrong submission is still told that it is wrong."""
    depot.full = "/state has 1 GB free, less than the 2 GB that [hub] min_free keeps: free some space"
    reply = await submit(client)
    assert (reply.status, reply.json, reply.headers["retry-after"]) == (507, refused(depot.full), "77")
    assert reply.headers["x-datahub-error"] == "hub.no_space"
    assert (await submit(client, {"product_id": "005"})).status == 400


async def test_the_database_away(depot, client):
    """503 for both calls, each in its shape; the caller may come again."""
    depot.store.away[""] = Unavailable("the database is away")
    reply = await submit(client)
    assert (reply.status, reply.json) == (503, refused("the database is away"))
    assert reply.headers["retry-after"] == "5"
    reply = await status(client, "x")
    assert (reply.status, reply.json) == (503, {"error": True, "msg": "the database is away"})


async def test_a_fault_of_our_own(depot, client):
    """500 in the prototype's shape, with a number for the log and nothing of the inside."""
    depot.store.away[""] = KeyError("/secret/path")
    with capturedLogs() as events:
        reply = await submit(client)
    assert reply.status == 500
    assert (reply.json["job_id"], reply.json["error"]) == (None, True)
    assert "secret" not in reply.json["msg"]
    (incident,) = [event["incident"] for event in events if "incident" in event]
    assert incident in reply.json["msg"]


async def test_no_token(depot):
    """401 in the prototype's shape where anonymous callers may nothing; a wrong token never becomes anonymous."""
    client = depot.client(anonymous=())
    reply = await submit(client, by={})
    assert (reply.status, reply.json["error"]) == (401, True)
    assert (await submit(depot.client(), by={"Authorization": "Bearer wrong"})).status == 401
    assert depot.store.names == []


async def test_who_may_read_only(client):
    """403 in the prototype's shape for a submission, naming the scope."""
    reply = await submit(client, by=BOB)
    assert (reply.status, reply.json["job_id"]) == (403, None)
    assert "transfers:write" in reply.json["msg"]


async def test_the_same_key_gives_the_same_answer(depot, client):
    """One transfer; the key for anything else is 409."""
    first = await submit(client, **{"Idempotency-Key": "k1"})
    again = await submit(client, **{"Idempotency-Key": "k1"})
    assert (first.status, again.status) == (202, 202)
    assert first.json == again.json
    assert first.headers["location"] == again.headers["location"]
    other = await submit(client, {**ASKED, "product_id": "006"}, **{"Idempotency-Key": "k1"})
    assert (other.status, other.headers["x-datahub-error"]) == (409, "request.key_reused")
    assert other.json["job_id"] is None
    counted = select(func.count()).select_from(tables.transfer)
    assert depot.store.now(lambda c: c.execute(counted).scalar()) == 1


async def test_a_key_is_the_same_by_form_and_by_json(client):
    """What counts is what is asked for, not how it was written."""
    first = await submit(client, **{"Idempotency-Key": "k1"})
    asked = {**ASKED, "overwrite": False}
    again = await client.ask("POST", "/submitTransfer", json=asked, headers={**ALICE, "Idempotency-Key": "k1"})
    assert again.json == first.json


@pytest.mark.parametrize("key", ["", "a" * 191, "schlüssel", "tab\there"])
async def test_a_wrong_key(depot, client, key):
    """400 that says what a key is."""
    reply = await submit(client, **{"Idempotency-Key": key.encode()})
    assert (reply.status, reply.json["error"]) == (400, True)
    assert "1 to 190 printable ASCII characters" in reply.json["msg"]
    assert depot.store.names == []


async def test_the_status(depot, client):
    """The prototype's fields, by its own call and by ours."""
    number = (await submit(client)).json["job_id"]
    reply = await status(client, number)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert (reply.json["job_id"], reply.json["status"], reply.json["submitter"]) == (number, "SUBMITTED", "alice")
    assert reply.json["time_submitted"] == "2026-03-01T09:30:00.250Z"
    assert None not in reply.json.values()
    ours = await client.ask("GET", f"/transfers/{number}", headers=ALICE)
    assert (ours.status, ours.json) == (200, reply.json)


@pytest.mark.parametrize("path", ["/transferStatus", "/transferStatus?job_id="])
async def test_a_status_without_id(client, path):
    """400 in the prototype's words."""
    reply = await client.ask("GET", path, headers=ALICE)
    assert (reply.status, reply.json) == (400, {"msg": "No job ID specified", "error": True})


async def test_a_status_that_is_not_there(client):
    """404 in the prototype's shape; by our own path as a problem."""
    reply = await status(client, "nothing")
    assert (reply.status, reply.json) == (404, {"msg": "job_id nothing not found"})
    reply = await client.ask("GET", "/transfers/nothing", headers=ALICE)
    assert (reply.status, reply.json["code"]) == (404, "transfer.not_found")
    assert reply.headers["content-type"] == "application/problem+json"


async def test_another_ones_status(client):
    """403 in the prototype's words; an administrator sees it."""
    number = (await submit(client)).json["job_id"]
    reply = await status(client, number, by=BOB)
    text = f"'bob' does not match submitter for transfer {number}"
    assert (reply.status, reply.json) == (403, {"msg": text})
    assert (await status(client, number, by=ROOT)).status == 200


async def test_an_unknown_field_of_the_status(client):
    """400 that names those there are."""
    reply = await client.ask("GET", "/transferStatus?id=1", headers=ALICE)
    assert (reply.status, reply.headers["x-datahub-error"]) == (400, "request.unknown")
    assert reply.json["msg"] == "id is not a field of this request; its fields are: wait, watch, job_id"


async def test_cancelling(depot, client):
    """200 when it is over, 202 while it is being undone, 409 when it is too late."""
    first = (await submit(client)).json["job_id"]
    reply = await client.ask("DELETE", f"/transfers/{first}", headers=ALICE)
    assert (reply.status, reply.json["status"]) == (200, "CANCELLED")
    second = (await submit(client)).json["job_id"]
    depot.archive.answers = [Deferred()]
    depot.stage()
    reply = await client.ask("DELETE", f"/transfers/{second}", headers=ALICE)
    assert (reply.status, reply.json["status"]) == (202, "CANCELLING")
    third = (await submit(client)).json["job_id"]
    depot.look()
    reply = await client.ask("DELETE", f"/transfers/{third}", headers=ALICE)
    assert (reply.status, reply.headers["x-datahub-error"]) == (409, "transfer.too_late")
    assert (await client.ask("DELETE", "/transfers/nothing", headers=ALICE)).status == 404
    assert (await client.ask("DELETE", f"/transfers/{third}", headers=BOB)).status == 403


ODD_IDS = ["a" * 9000, "ü", "\U0001f680", "'; DROP TABLE transfer; --", "a b", "\x01", "%"]


@pytest.mark.parametrize("number", ODD_IDS)
async def test_odd_ids_are_not_there(client, number):
    """Whatever they are made of."""
    assert (await status(client, quote(number, safe=""))).status == 404
    for method in ("GET", "DELETE"):
        assert (await client.ask(method, f"/transfers/{quote(number, safe='')}", headers=ALICE)).status == 404


@pytest.mark.parametrize("number", ["%00", "a%00b", "%ff", "%ed%a0%80"])
async def test_ids_that_no_database_takes(depot, client, number):
    """NUL and bytes that are not UTF-8 are refused before the database is asked: PostgreSQL would fail."""
    assert (await status(client, number)).status == 400
    for method in ("GET", "DELETE"):
        assert (await client.ask(method, f"/transfers/{number}", headers=ALICE)).status in (400, 404)
    assert depot.store.names == []


texts = st.text(max_size=60) | st.sampled_from(["005", "file:///d/a", "file:///d/%00", "file://[", "\ud800", "a/../b"])
values = texts | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.lists(texts, max_size=2)
names = st.sampled_from(["product_id", "destination_path", "overwrite", "checksum"]) | st.text(max_size=8)


def give(asking):
    """The reply of a client in memory, which has come at once."""
    return start(asking).result


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(names, values, max_size=5))
def test_any_json_is_answered(fields):
    """Taken or refused in the prototype's shape: never a fault of ours."""
    depot = Depot()
    body = json.dumps(fields).encode()
    headers = {**ALICE, "Content-Type": "application/json"}
    reply = give(depot.client().ask("POST", "/submitTransfer", data=body, headers=headers))
    assert reply.status in (202, 400), reply
    assert set(reply.json) == {"job_id", "error", "msg"}
    assert reply.json["error"] == (reply.status == 400)
    depot.end()


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([FORM, "application/json", "multipart/form-data; boundary=b", "", "text/x"]),
)
def test_any_bytes_are_answered(body, kind):
    """Whatever they are said to be."""
    depot = Depot()
    headers = {**ALICE, "Content-Type": kind}
    reply = give(depot.client().ask("POST", "/submitTransfer", data=body, headers=headers))
    assert reply.status == 400, reply
    assert reply.json["error"] is True
    depot.end()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=50), st.text(max_size=50))
def test_any_form_is_answered(product, folder):
    """All of Unicode may be in a field."""
    depot = Depot()
    pairs = {"product_id": product, "destination_path": f"file:///d/{folder}"}
    body = "&".join(f"{name}={quote(value.encode('utf-8', 'surrogatepass'), safe='')}" for name, value in pairs.items())
    headers = {**ALICE, "Content-Type": FORM}
    reply = give(depot.client().ask("POST", "/submitTransfer", data=body.encode(), headers=headers))
    assert reply.status in (202, 400), reply
    if reply.status == 202:
        found = depot.transfer(reply.json["job_id"])
        assert (found.product_id, found.destination_path) == (product, f"file:///d/{folder}")
    depot.end()
