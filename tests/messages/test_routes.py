"""Messages over HTTP, as their callers meet them."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from http import HTTPMethod
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datahub.errors import NoSpace, Unavailable
from datahub.messages.model import digest_of
from datahub.messages.routes import MessageRoutes
from tests.messages.keeping import Shelf, service
from tests.web.memory import LIMITS, Client, Wire, make_site

FOO = digest_of(b"foo")
PATH = f"/messages/{FOO}"
LIMIT = 1000
JSON = {"Content-Type": "application/json"}
BYTES = {"Accept": "application/octet-stream"}
TEXT = {"Accept": "text/plain"}
NO_TEXT = b"\xff\xfe"


@pytest.fixture
def hub():
    """Give a hub with nothing but messages."""
    return make_hub()


def make_hub(anonymous=("read", "write")):
    shelf = Shelf()
    routes = MessageRoutes(service(shelf, limit=LIMIT))
    site = make_site([routes.app], anonymous=anonymous)
    return SimpleNamespace(shelf=shelf, routes=routes, site=site, ask=Client(site).ask)


async def post(hub, message):
    return await hub.ask("POST", "/messages", data=json.dumps({"message": message}).encode(), headers=JSON)


async def test_the_steps_of_the_replaced_services_test_client(hub):
    """Not there, put, found, another one, and the first one again."""
    assert (await hub.ask("GET", "/messages/" + "a" * 64)).status == 404
    for _ in range(2):
        posted = await post(hub, "foo")
        assert (posted.status, posted.json) == (201, {"digest": FOO})
        found = await hub.ask("GET", PATH)
        assert (found.status, found.json) == (200, {"message": "foo"})
        await post(hub, "bar")
        assert (await hub.ask("GET", f"/messages/{digest_of(b'bar')}")).json == {"message": "bar"}


async def test_post_tells_where(hub):
    """By a header, too, as for everything that was made."""
    posted = await post(hub, "foo")
    assert posted.headers["location"] == PATH
    assert posted.headers["content-type"] == "application/json"


@pytest.mark.parametrize("text", ["", "\0", "é€😀", "a" * LIMIT, 'quo"te\\', "\u2028\r\n"])
async def test_any_text_comes_back(hub, text):
    """As JSON and as its bytes."""
    path = (await post(hub, text)).headers["location"]
    assert (await hub.ask("GET", path)).json == {"message": text}
    assert (await hub.ask("GET", path, headers=TEXT)).body == text.encode()


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", "application/octet-stream"])
async def test_the_body_itself_is_kept(hub, kind):
    """When its type says that it is the content."""
    posted = await hub.ask("POST", "/messages", data=b'{"message": "foo"}', headers={"Content-Type": kind})
    assert (posted.status, posted.json) == (201, {"digest": digest_of(b'{"message": "foo"}')})


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"message=foo", "application/x-www-form-urlencoded"),
        (b"--x\r\nContent-Disposition: form-data; name=message\r\n\r\nfoo\r\n--x--", "multipart/form-data; boundary=x"),
        (b"foo", None),
        (b'{"message": 5}', "application/json"),
        (b'{"message": null}', "application/json"),
        (b'{"message": ["foo"]}', "application/json"),
        (b"null", "application/json"),
        (b"5", "application/json"),
        (b'["message"]', "application/json"),
        (b'"message"', "application/json"),
        (b"{}", "application/json"),
        (b'{"msg": "foo"}', "application/json"),
        (b'{"message": "\xff"}', "application/json"),
        (b'{"message": "\\udc00"}', "application/json"),
        (b"[" * 3000, "application/json"),
    ],
)
async def test_odd_bodies(hub, body, kind):
    """Each is a 400 whose err_msg says what is wrong."""
    reply = await hub.ask("POST", "/messages", data=body, headers={} if kind is None else {"Content-Type": kind})
    assert reply.status == 400
    assert reply.json["err_msg"]
    assert hub.shelf.contents == {}


async def test_the_replaced_services_words(hub):
    """They stand where it had some."""
    assert (await hub.ask("POST", "/messages", data=b"{}", headers=JSON)).json == {
        "err_msg": "I was expecting to receive a POST param called 'message'."
    }
    reply = await hub.ask("GET", "/messages/a%20%C3%A9")
    assert (reply.status, reply.json) == (404, {"err_msg": "Message not found for hash: a é"})
    assert (reply.headers["cache-control"], reply.headers["x-datahub-error"]) == ("no-store", "message.not_found")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/messages", 405),
        ("DELETE", "/messages", 405),
        ("POST", PATH, 405),
        ("PATCH", PATH, 405),
        ("OPTIONS", PATH, 405),
        ("GET", "/messages/a/b", 404),
        ("POST", "/messages/a/b", 404),
    ],
)
async def test_other_calls(hub, method, path, status):
    """They are refused in the same shape; what is possible is said."""
    reply = await hub.ask(method, path)
    assert reply.status == status
    assert reply.json["err_msg"]
    assert ("allow" in reply.headers) == (status == 405)


async def test_headers_of_a_message(hub):
    """It may be kept for ever, under its digest; JSON has a digest of its own, since other bytes are sent."""
    await post(hub, "foo")
    for accept in ({}, TEXT, BYTES):
        found = await hub.ask("GET", PATH, headers=accept)
        assert found.headers["etag"] == f'"{FOO}"'
        assert found.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert found.headers["vary"] == "Accept"
        digest = found.headers["repr-digest"].removeprefix("sha-256=:").removesuffix(":")
        assert b64decode(digest) == hashlib.sha256(found.body).digest()


async def test_bytes_do_no_harm(hub):
    """No browser runs what somebody stored here."""
    await post(hub, "<script>")
    path = f"/messages/{digest_of(b'<script>')}"
    for accept in (TEXT, BYTES):
        found = await hub.ask("GET", path, headers=accept)
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["content-security-policy"] == "sandbox"
    assert found.headers["content-disposition"] == "attachment"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json"),
        ("image/png", "application/json"),
        ("nonsense;;;q=x,", "application/json"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/*", "text/plain; charset=utf-8"),
        ("application/json;q=0.5, text/plain", "text/plain; charset=utf-8"),
        ("application/octet-stream", "application/octet-stream"),
    ],
)
async def test_the_form_that_is_preferred(hub, accept, kind):
    """JSON, unless bytes are asked for by name."""
    await post(hub, "foo")
    found = await hub.ask("GET", PATH, headers={"Accept": accept} if accept else {})
    assert (found.status, found.headers["content-type"]) == (200, kind)


@pytest.mark.parametrize("condition", [f'"{FOO}"', f'"x", W/"{FOO}"', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_not_modified(hub, method, condition):
    """Who has the message is not sent it again."""
    await post(hub, "foo")
    reply = await hub.ask(method, PATH, headers={"If-None-Match": condition})
    assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", f'"{FOO}"')
    assert "content-length" not in reply.headers


async def test_a_condition_on_what_is_not_there(hub):
    """It is not there, whatever the condition."""
    assert (await hub.ask("GET", PATH, headers={"If-None-Match": "*"})).status == 404


@pytest.mark.parametrize(
    ("wanted", "part", "place"), [("bytes=1-", b"oo", "bytes 1-2/3"), ("bytes=-1", b"o", "bytes 2-2/3")]
)
async def test_a_part(hub, wanted, part, place):
    """Of the bytes, never of the JSON; the digest is that of the whole."""
    await post(hub, "foo")
    reply = await hub.ask("GET", PATH, headers={**BYTES, "Range": wanted})
    assert (reply.status, reply.body, reply.headers["content-range"]) == (206, part, place)
    assert reply.headers["repr-digest"] == "sha-256=:LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=:"
    assert (await hub.ask("GET", PATH, headers={"Range": wanted})).json == {"message": "foo"}


async def test_a_part_of_what_may_have_changed(hub):
    """If-Range with another tag gives the whole, with this one the part; a HEAD knows no parts."""
    await post(hub, "foo")
    for method, tag, status in [("GET", f'"{FOO}"', 206), ("GET", '"x"', 200), ("HEAD", f'"{FOO}"', 200)]:
        headers = {**BYTES, "Range": "bytes=1-1", "If-Range": tag}
        assert (await hub.ask(method, PATH, headers=headers)).status == status


async def test_a_part_behind_the_end(hub):
    """Says how large the message is."""
    await post(hub, "foo")
    reply = await hub.ask("GET", PATH, headers={**BYTES, "Range": "bytes=3-"})
    assert (reply.status, reply.headers["content-range"]) == (416, "bytes */3")
    assert reply.headers["x-datahub-error"] == "request.range"
    assert "3 bytes" in reply.json["err_msg"]


async def test_what_is_no_text(hub):
    """It can't be JSON, and says how it can be had."""
    path = (await hub.ask("PUT", f"/messages/{digest_of(NO_TEXT)}", data=NO_TEXT)).headers["location"]
    reply = await hub.ask("GET", path)
    assert (reply.status, reply.headers["x-datahub-error"]) == (406, "request.not_acceptable")
    assert "application/octet-stream" in reply.json["err_msg"]
    for accept, kind in ((BYTES, "application/octet-stream"), (TEXT, "text/plain")):
        found = await hub.ask("GET", path, headers=accept)
        assert (found.status, found.body, found.headers["content-type"]) == (200, NO_TEXT, kind)


async def test_head(hub):
    """All headers of a GET, nothing of the message."""
    await post(hub, "foo")
    for accept, length in (({}, "18"), (BYTES, "3")):
        reply = await hub.ask("HEAD", PATH, headers=accept)
        assert (reply.status, reply.headers["content-length"], reply.body) == (200, length, b"")
    assert (await hub.ask("HEAD", "/messages/x")).status == 404


async def test_upper_case_finds_the_same(hub):
    """As hexadecimal digits do."""
    await post(hub, "foo")
    assert (await hub.ask("GET", f"/messages/{FOO.upper()}")).json == {"message": "foo"}


async def test_put(hub):
    """New, there already, and not what it says."""
    first, second = [await hub.ask("PUT", PATH, data=b"foo") for _ in range(2)]
    assert (first.status, first.json, first.headers["location"]) == (201, {"digest": FOO}, PATH)
    assert (second.status, second.json) == (200, {"digest": FOO})
    wrong = await hub.ask("PUT", PATH, data=b"bar")
    assert (wrong.status, wrong.headers["x-datahub-error"]) == (422, "request.mismatch")
    assert FOO in wrong.json["err_msg"]
    assert digest_of(b"bar") in wrong.json["err_msg"]


async def test_batch_and_missing(hub):
    """Together they are how many messages are sent by who has most of them sent already."""
    batch = await hub.ask("POST", "/messages/batch", data=json.dumps({"messages": ["foo", "é"]}).encode())
    assert (batch.status, batch.json) == (201, {"digests": [FOO, digest_of("é".encode())]})
    asked = json.dumps({"digests": ["a" * 64, FOO]}).encode()
    missing = await hub.ask("POST", "/messages/missing", data=asked)
    assert (missing.status, missing.json) == (200, {"missing": ["a" * 64]})
    assert (await hub.ask("GET", "/messages/batch")).status == 404


@pytest.mark.parametrize("path", ["/messages/batch", "/messages/missing"])
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"messages": 5, "digests": 5}', b'{"messages": [5], "digests": [5]}']
)
async def test_odd_lists(hub, path, body):
    """They are refused by name."""
    reply = await hub.ask("POST", path, data=body, headers=JSON)
    assert reply.status == 400
    assert reply.json["err_msg"]


async def test_delete_is_for_the_administrator(hub):
    """Others may write, but what is kept stays."""
    await post(hub, "foo")
    for token, status in ((None, 401), ("alice", 403), ("root", 204), ("root", 404)):
        headers = {"Authorization": f"Bearer {token}-token"} if token else {}
        reply = await hub.ask("DELETE", PATH, headers=headers)
        assert (reply.status, "err_msg" in (reply.json if reply.body else {})) == (status, status != 204)
    assert (await hub.ask("GET", PATH)).status == 404


async def test_scopes():
    """Reading and writing are permitted apart; asking what is missing is reading."""
    hub = make_hub(anonymous=())
    asked = [
        ("POST", "/messages"),
        ("PUT", PATH),
        ("POST", "/messages/batch"),
        ("POST", "/messages/missing"),
        ("GET", PATH),
    ]
    for method, path in asked:
        assert (await hub.ask(method, path)).status == 401
    bob = {"Authorization": "Bearer bob-token"}
    assert [(await hub.ask(method, path, headers=bob)).status for method, path in asked] == [403, 403, 403, 400, 404]


async def test_over_the_limit(hub):
    """A message to the byte, a body at six times that, since JSON may take six bytes for one; 413 either way."""
    assert (await post(hub, "\x01" * LIMIT)).status == 201
    for size, kind in ((LIMIT + 1, "text/plain"), (6 * LIMIT, "text/plain")):
        reply = await hub.ask("POST", "/messages", data=b"x" * size, headers={"Content-Type": kind})
        assert (reply.status, reply.headers["x-datahub-error"]) == (413, "request.too_large")
        assert "at most 1000 are taken" in reply.json["err_msg"]
    reply = await hub.ask("POST", "/messages", data=b"x" * 8000, headers=JSON)
    assert (reply.status, reply.headers["x-datahub-error"]) == (413, "request.too_large")


async def test_a_body_may_be_larger_than_elsewhere(hub):
    """The listener takes what messages take, though its own limit is lower."""
    assert LIMITS.body < 6 * LIMIT
    assert (await post(hub, "\x01" * LIMIT)).status == 201


@pytest.mark.parametrize(("fault", "status"), [(Unavailable("it is away"), 503), (NoSpace("it is full"), 507)])
async def test_a_store_that_can_not(hub, fault, status):
    """Says when to ask again."""
    hub.shelf.fault = fault
    for reply in (await post(hub, "foo"), await hub.ask("GET", PATH), await hub.ask("HEAD", PATH)):
        assert (reply.status, reply.headers["retry-after"].isdigit()) == (status, True)


async def test_a_damaged_message(hub):
    """Is not given out; its digest is named."""
    hub.shelf.contents[FOO] = b"fool"
    reply = await hub.ask("GET", PATH)
    assert (reply.status, reply.headers["x-datahub-error"]) == (500, "hub.damaged")
    assert FOO in reply.json["err_msg"]
    assert b"fool" not in reply.body


SEGMENTS = st.text(max_size=70).map(lambda text: text.encode("utf-8", "surrogatepass"))
HEADERS = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.encode)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*map(str, HTTPMethod), "BREW"]).filter(lambda method: method != "CONNECT"),
    st.sampled_from([b"", b"/batch", b"/missing", b"/" + FOO.encode()]) | SEGMENTS.map(lambda each: b"/" + each),
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.text() | st.floats() | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["message", "messages", "digests", "x"]), inner)
        ),
    ).map(lambda each: json.dumps(each).encode()),
    st.dictionaries(st.sampled_from([b"Content-Type", b"Accept", b"Range", b"If-Range", b"If-None-Match"]), HEADERS),
)
def test_whatever_is_asked(method, path, body, headers):
    """Every request is answered, none by an internal fault, and every error says what it is."""
    hub = make_hub()
    hub.shelf.contents[FOO] = b"foo"
    escaped = b"".join(
        b"%%%02X" % byte if byte in b"%?# /" or not 33 <= byte <= 126 else bytes([byte]) for byte in path[1:]
    )
    lines = [b"%s: %s" % pair for pair in headers.items()]
    head = b"\r\n".join(
        [
            method.encode() + b" /messages" + path[:1] + escaped + b" HTTP/1.1",
            b"Host: hub",
            b"Content-Length: %d" % len(body),
            *lines,
        ]
    )
    wire = Wire(hub.site).send(head + b"\r\n\r\n" + body)
    status = int(wire.transport.value().split(b" ", 2)[1])
    assert status < 500
    if status >= 400 and method != "HEAD":
        assert wire.reply.json["err_msg"]
    wire.hang_up()
