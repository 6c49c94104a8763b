"""Operations over HTTP: what is checked before they run, and what becomes of what they give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs

from datahub.errors import Conflict, DatahubError
from datahub.web.app import Answer, App, Call
from datahub.web.server import HubSite
from tests.web.memory import Client, Entries, Wire, make_site


class Product(msgspec.Struct):
    product_id: str
    priority: int = 3


def seed_refusal(status: int, error: DatahubError) -> Mapping[str, Any]:
    """Errors as a replaced system shaped them."""
    return {"error": True, "msg": str(error)}


class Shop:
    """Operations of all kinds."""

    app = App()
    kept: ClassVar[str] = ""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.waiting: Deferred[None] = Deferred()

    @app.operation("POST", "/submit", scope="shop:write", takes=Product, gives={202: Product}, refuses=seed_refusal)
    async def submit(self, call: Call, product: Product) -> Answer:
        self.seen.append(product)
        return Answer(202, product, {"Location": f"/shop/{product.product_id}"})

    @app.operation("GET", "/shop/<path:name>", scope="shop:read")
    async def show(self, call: Call, name: str) -> dict[str, Any]:
        return {"name": name, "caller": call.caller.name, "path": call.path, "agent": call.header("x-agent")}

    @app.operation("DELETE", "/shop/<name>", scope="shop:write")
    async def remove(self, call: Call, name: str) -> Answer:
        return Answer(204)

    @app.operation(("GET", "POST"), "/report", scope="", takes=Product)
    async def report(self, call: Call, product: Product) -> Product:
        self.seen.append(call.method)
        return product

    @app.operation("GET", "/slow", scope="")
    async def slow(self, call: Call) -> dict[str, Any]:
        try:
            await self.waiting
        except CancelledError:
            self.seen.append("cancelled")
            raise
        return {"slow": True}

    @app.operation("POST", "/slow", scope="")
    async def slow_change(self, call: Call) -> dict[str, Any]:
        await self.waiting
        self.seen.append("changed")
        return {"body": call.body.decode()}

    @app.operation("POST", "/conflict", scope="")
    async def conflict(self, call: Call) -> None:
        raise Conflict("it is taken")

    @app.operation("GET", "/fault", scope="")
    async def fault(self, call: Call) -> None:
        raise KeyError("/secret/path")

    @app.operation("GET", "/nothing", scope="")
    async def nothing(self, call: Call) -> None:
        """Forget to answer."""

    @app.operation("GET", "/half", scope="")
    async def half(self, call: Call) -> None:
        call.request.write(b"half of ")
        raise KeyError("/secret/path")


@pytest.fixture
def shop() -> Shop:
    """The object whose operations are served."""
    return Shop()


@pytest.fixture
def log() -> Entries:
    """The access log."""
    return Entries()


@pytest.fixture
def site(shop: Shop, log: Entries) -> HubSite:
    """A site that serves the shop."""
    return make_site([shop.app], access_log=log)


@pytest.fixture
def client(site: HubSite) -> Client:
    """A client of the site."""
    return Client(site)


async def test_a_struct_becomes_json(client, shop):
    """A form comes in as a shape; an answer goes out as a line of JSON with its headers."""
    reply = await client.ask("POST", "/submit", data={"product_id": "p1", "priority": "4"})
    assert shop.seen == [Product("p1", 4)]
    assert (reply.status, reply.body) == (202, b'{"product_id":"p1","priority":4}\n')
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["location"] == "/shop/p1"


async def test_json_and_multipart_and_query(client, shop):
    """All ways of sending the fields come to the same."""
    multipart = b'--B\r\nContent-Disposition: form-data; name="product_id"\r\n\r\np\r\n--B--\r\n'
    await client.ask("POST", "/submit", data=b'{"product_id": "p"}')
    await client.ask("POST", "/submit", data=multipart, headers={"content-type": "multipart/form-data; boundary=B"})
    await client.ask("POST", "/submit?product_id=p")
    assert shop.seen == [Product("p")] * 3


async def test_path_arguments_and_bare_results(client):
    """Path arguments come as keywords, a bare dict is 200, %2F in a path argument is a slash."""
    reply = await client.ask("GET", "/shop/a%2Fb/%C3%A4", headers={"X-Agent": "me", "Authorization": "alice-token"})
    assert reply.status == 200
    assert reply.json == {"name": "a/b/ä", "caller": "alice", "path": "/shop/a%2Fb/%C3%A4", "agent": "me"}


async def test_a_slash_escaped_in_the_first_part_is_no_path_of_ours(client):
    """The first part chooses the app as it stands; an escaped slash does not divide it."""
    assert (await client.ask("GET", "/shop%2Fa")).status == 404


async def test_no_content(client):
    """204 has neither body nor length."""
    reply = await client.ask("DELETE", "/shop/a")
    assert (reply.status, reply.body) == (204, b"")
    assert "content-length" not in reply.headers
    assert "content-type" not in reply.headers


async def test_head_has_the_length_and_no_body(site):
    """HEAD answers as GET would, without the body; the connection can be used again."""
    wire = Wire(site).send(b"GET /shop/a HTTP/1.1\r\nHost: hub\r\n\r\n")
    length = wire.reply.headers["content-length"]
    wire = Wire(site).send(b"HEAD /shop/a HTTP/1.1\r\nHost: hub\r\n\r\n")
    value = wire.transport.value()
    assert value.endswith(b"\r\n\r\n")
    assert f"Content-Length: {length}\r\n".encode() in value
    assert int(length) > 10


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "BREW", "PROPFIND"])
async def test_other_methods_are_405_with_allow(client, method):
    """A method that is not declared is refused with those that are, in a problem."""
    reply = await client.ask(method, "/shop/a")
    assert reply.status == 405
    assert sorted(reply.headers["allow"].split(", ")) == ["DELETE", "GET", "HEAD"]
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-datahub-error"] == reply.json["code"] == "request.method"
    assert f"{method} is not possible at /shop/a" in reply.json["detail"]


@pytest.mark.parametrize("path", ["/nowhere", "/shop", "/submit/more", "//submit", "/%00", "/*"])
async def test_unknown_paths_are_404(site, path):
    """What is not served is a problem, never a redirect or a page of HTML."""
    reply = Wire(site).send(f"GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n".encode()).reply
    assert (reply.status, reply.json["code"]) == (404, "request.not_found")
    assert reply.headers["x-datahub-error"] == "request.not_found"
    assert reply.headers["x-datahub-node"] == "hub1"


async def test_a_slash_at_the_end_changes_nothing(client):
    """No redirect turns a POST into a GET."""
    assert (await client.ask("POST", "/report/", data={"product_id": "p"})).status == 200
    assert (await client.ask("POST", "/report", data={"product_id": "p"})).status == 200


@pytest.mark.parametrize("path", [b"/shop/%ff", b"/%ff", b"/shop/\xaf"])
async def test_paths_that_are_no_utf8(site, path):
    """They are 400 problems like any other, and nothing is logged for them as a fault."""
    with capturedLogs() as events:
        reply = Wire(site).send(b"GET " + path + b" HTTP/1.1\r\nHost: hub\r\n\r\n").reply
    assert (reply.status, reply.json["code"], reply.json["field"]) == (400, "request.invalid", "url")
    assert reply.headers["x-request-id"]
    assert not [event for event in events if "log_failure" in event]


@pytest.mark.parametrize("host", [b"\xff\xfe", b"[::1", b"a" * 300 + b".", b"..", b"x y"])
async def test_odd_host_names_are_answered(site, host):
    """A Host header of nonsense never ends in a page of HTML or without an answer."""
    reply = Wire(site).send(b"GET /shop/a HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").reply
    assert reply.status in (200, 400)
    assert "json" in reply.headers["content-type"]


async def test_bad_input_in_the_shape_of_the_replaced_system(client):
    """Errors of an operation whose shape a seed fixed have that shape, and our header."""
    reply = await client.ask("POST", "/submit", data={"product": "x"})
    assert reply.status == 400
    assert reply.json["error"] is True
    assert "its fields are: product_id, priority" in reply.json["msg"]
    assert reply.headers["x-datahub-error"] == "request.unknown"
    reply = await client.ask("POST", "/report", data=b'{"product_id": ', headers={"content-type": "application/json"})
    assert (reply.status, reply.headers["content-type"]) == (400, "application/problem+json")
    assert "byte 15" in reply.json["detail"]


@pytest.mark.parametrize("credentials", ["Bearer alice-token", "bearer alice-token", "alice-token"])
async def test_both_forms_of_authorization(shop, credentials):
    """A token is taken with and without its scheme, also where nobody may come in without."""
    client = Client(make_site([shop.app], anonymous=()))
    reply = await client.ask("GET", "/shop/a", headers={"Authorization": credentials})
    assert reply.json["caller"] == "alice"


async def test_401_says_what_is_accepted(shop, client):
    """No credentials where some are needed, and bad ones anywhere, are 401 with a challenge; nothing runs."""
    strict = Client(make_site([shop.app], anonymous=()))
    for reply in (
        await strict.ask("POST", "/submit", data={"product_id": "p"}),
        await client.ask("POST", "/submit", data={"product_id": "p"}, headers={"Authorization": "Bearer wrong"}),
        await client.ask("POST", "/submit", data={"product_id": "p"}, headers={"Authorization": "Basic YTpi"}),
    ):
        assert reply.status == 401
        assert reply.headers["www-authenticate"] == 'Bearer realm="datahub"'
        assert "Authorization: Bearer TOKEN" in reply.json["msg"]
    assert shop.seen == []


async def test_403_names_the_scope(client, shop):
    """A known caller without the scope is told which one lacks, before his body is looked at."""
    reply = await client.ask("POST", "/submit", data=b"{", headers={"Authorization": "bob-token"})
    assert (reply.status, reply.headers["x-datahub-error"]) == (403, "auth.forbidden")
    assert "'shop:write'" in reply.json["msg"]
    assert shop.seen == []


async def test_an_error_of_the_domain(client):
    """What an operation raises on purpose finds its status."""
    reply = await client.ask("POST", "/conflict")
    assert (reply.status, reply.json["detail"], reply.json["code"]) == (409, "it is taken", "request.conflict")


@pytest.mark.parametrize("path", ["/fault", "/nothing"])
async def test_an_unknown_error_is_an_incident(client, path):
    """The caller gets an incident id that is also in the log, and nothing else."""
    with capturedLogs() as events:
        reply = await client.ask("GET", path)
    (incident,) = [event["incident"] for event in events if "incident" in event]
    assert (reply.status, reply.json["incident"]) == (500, incident)
    assert b"secret" not in reply.body


@pytest.mark.parametrize("given", ["abc-1.2_X", "a" * 64])
async def test_a_harmless_request_id_is_taken_over(client, given, log):
    """A caller may name his request; the access log has that name."""
    reply = await client.ask("GET", "/shop/a", headers={"X-Request-Id": given})
    assert reply.headers["x-request-id"] == given
    assert log.entries[0].request_id == given


@pytest.mark.parametrize("given", ["", "a" * 65, "a b", "a\tb", "ä", "a;b", "a%0d%0aX: y", '{"a"}', "a/b"])
async def test_any_other_request_id_is_replaced(client, given):
    """What might do harm in a log or header never gets there."""
    reply = await client.ask("GET", "/fault", headers={"X-Request-Id": given.encode()})
    made = reply.headers["x-request-id"]
    assert made != given
    assert made.isalnum()
    assert reply.json["request_id"] == made


async def test_each_answer_names_node_and_request(client):
    """Every answer, errors too, says who gave it and what it is called."""
    replies = [await client.ask("GET", path) for path in ("/", "/shop/a", "/nowhere", "/fault", "/half%ff")]
    assert [reply.headers["x-datahub-node"] for reply in replies] == ["hub1"] * 5
    assert len({reply.headers["x-request-id"] for reply in replies}) == 5


async def test_the_root_names_the_service(client):
    """A person with a browser learns what this is; nothing else can be done there."""
    reply = await client.ask("GET", "/")
    assert reply.status == 200
    assert reply.body.startswith(b"datahub ")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await client.ask("POST", "/")).status == 405


def test_a_reading_operation_is_cancelled_when_its_caller_leaves(site, shop, log):
    """Nobody is left to read it."""
    wire = Wire(site).send(b"GET /slow HTTP/1.1\r\nHost: hub\r\n\r\n")
    wire.hang_up()
    assert shop.seen == ["cancelled"]
    assert [(entry.method, entry.path, entry.status) for entry in log.entries] == [("GET", "/slow", 499)]
    assert len(site.traffic.requests) == 0


def test_a_changing_operation_runs_to_its_end(site, shop, log):
    """A state change is never left half-done, and counts as under way until it is over."""
    wire = Wire(site).send(b"POST /slow HTTP/1.1\r\nHost: hub\r\nContent-Length: 2\r\n\r\nhi")
    wire.hang_up()
    assert shop.seen == []
    assert len(site.traffic.requests) == 1
    shop.waiting.callback(None)
    assert shop.seen == ["changed"]
    assert len(site.traffic.requests) == 0
    assert [entry.status for entry in log.entries] == [499]


def test_a_change_that_fails_without_its_caller_is_logged(site, shop):
    """A failure that nobody is left to hear is in the log."""
    wire = Wire(site).send(b"POST /slow HTTP/1.1\r\nHost: hub\r\n\r\n")
    wire.hang_up()
    with capturedLogs() as events:
        shop.waiting.errback(KeyError("lost"))
    assert [event["log_failure"].type for event in events] == [KeyError]


def test_an_operation_that_also_takes_post_is_not_cancelled(shop):
    """GET changes something where an operation takes it beside POST."""
    operations = {operation.path: operation for operation in shop.app.operations.values()}
    assert not operations["/report"].reads
    assert operations["/shop/<name>"].reads is False


def test_an_error_after_the_first_byte_aborts(site, log):
    """A broken answer ends in a broken connection, not in an error text within a 200."""
    with capturedLogs() as events:
        wire = Wire(site).send(b"GET /half HTTP/1.1\r\nHost: hub\r\n\r\n")
    assert wire.closing()
    assert wire.transport.value().endswith(b"8\r\nhalf of \r\n")
    assert [event for event in events if "incident" in event]
    wire.hang_up()
    assert [entry.status for entry in log.entries] == [500]


def test_requests_on_one_connection(site, log):
    """Requests sent in one go are answered in their order."""
    wire = Wire(site).send(b"GET /shop/a HTTP/1.1\r\nHost: h\r\n\r\n" * 2 + b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [reply.status for reply in wire.replies] == [200, 200, 404]
    assert [entry.status for entry in log.entries] == [200, 200, 404]
    assert not wire.closing()


def test_the_access_log_knows_caller_and_size_but_no_query(site, log):
    """An entry has all that is asked for later, and none of the secrets that a query may hold."""
    wire = Wire(site).send(b"GET /shop/a?token=secret HTTP/1.1\r\nHost: h\r\nAuthorization: alice-token\r\n\r\n")
    (entry,) = log.entries
    assert (entry.caller, entry.method, entry.path, entry.status) == ("alice", "GET", "/shop/a", 200)
    assert entry.sent == len(wire.reply.body)
    assert entry.address == "192.168.1.1"
    assert entry.milliseconds >= 0


def test_objects_have_their_own_operations(shop):
    """Two objects of a class serve by themselves, and what was declared is known of each."""
    other = Shop()
    assert shop.app.operations is other.app.operations is Shop.app.operations
    assert sorted(shop.app.segments()) == sorted(
        ["submit", "shop", "report", "slow", "conflict", "fault", "nothing", "half"]
    )


def test_two_apps_can_t_claim_one_path(shop):
    """Which of two apps answers is never a matter of chance."""
    with pytest.raises(ValueError, match="two apps answer at /submit"):
        make_site([shop.app, Shop().app])


def test_a_path_needs_a_fixed_first_part():
    """An app that would take every path is refused when it is put together."""
    app = App()

    @app.operation("GET", "/<anything>", scope="")
    async def anything(call: Call, anything: str) -> dict[str, Any]:
        return {}

    with pytest.raises(ValueError, match="fixed part"):
        make_site([app])


class Shelf:
    """Has some things at hand, and fetches the others."""

    app = App(lambda _, error: {"wrong": str(error)})
    body_limit = 10_000

    def __init__(self) -> None:
        self.fetched: list[str] = []

    @app.operation("GET", "/shelf/<name>/label", scope="shelf:read", at_once="label_at_hand")
    async def label(self, call: Call, name: str) -> dict[str, Any]:
        """Fetch a label."""
        self.fetched.append(name)
        return {"name": name}

    def label_at_hand(self, call: Call, name: str) -> Answer | None:
        """Give a label that is here."""
        if name == "wrong":
            raise Conflict("it is taken")
        return Answer(200, {"at hand": name, "caller": call.caller.name}) if name.startswith("here") else None

    @app.operation("POST", "/shelf", scope="", bodies={"text/plain": None})
    async def fill(self, call: Call) -> Answer:
        """Take any bytes and give them back."""
        return Answer(200, call.body, content_type="text/plain")


async def test_what_is_at_hand_is_given_at_once():
    """Without routing; what is not is fetched, and a path that only looks like it is none."""
    shelf = Shelf()
    client = Client(make_site([shelf.app]))
    reply = await client.ask("GET", "/shelf/here%20%C3%A9/label?x=1")
    assert (reply.status, reply.json) == (200, {"at hand": "here é", "caller": "anonymous@127.0.0.1"})
    assert shelf.fetched == []
    assert (await client.ask("GET", "/shelf/there/label")).json == {"name": "there"}
    assert (await client.ask("HEAD", "/shelf/here/label")).status == 200
    assert shelf.fetched == ["there", "here"]
    assert [(await client.ask("GET", path)).status for path in ("/shelf/here/lable", "/shelf/here")] == [404, 404]


async def test_what_is_at_hand_is_not_for_everybody():
    """Identity, scope, errors and the access log are as for any other operation."""
    log = Entries()
    client = Client(make_site([Shelf().app], anonymous=(), access_log=log))
    assert (await client.ask("GET", "/shelf/here/label")).status == 401
    reply = await client.ask("GET", "/shelf/wrong/label", headers={"Authorization": "bob-token"})
    assert (reply.status, reply.json, reply.headers["x-request-id"] != "") == (409, {"wrong": "it is taken"}, True)
    assert [(entry.caller, entry.status) for entry in log.entries] == [
        ("anonymous@127.0.0.1", 401),
        ("bob", 409),
    ]


async def test_an_apps_own_shape_of_errors():
    """It holds for what it does not know, too, but not beside it."""
    client = Client(make_site([Shelf().app, Shop().app]))
    assert (await client.ask("GET", "/shelf/x")).json == {"wrong": "there is nothing at /shelf/x"}
    assert "wrong" in (await client.ask("DELETE", "/shelf")).json
    assert (await client.ask("GET", "/nowhere")).json["title"] == "Not Found"


async def test_an_apps_own_limit_of_bodies():
    """Its operations take more than the house does, those of its neighbours do not, and nobody takes more than that."""
    client = Client(make_site([Shelf().app, Shop().app]))
    sent = [await client.ask("POST", path, data=b"x" * size) for path, size in _SIZES]
    assert [reply.status for reply in sent] == [200, 413, 413]
    assert sent[0].body == b"x" * 10_000
    assert "2000 bytes" in sent[1].json["detail"]


_SIZES = [("/shelf", 10_000), ("/slow", 2001), ("/shelf", 10_001)]
