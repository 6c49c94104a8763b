"""What carts tell those who ask: where a script asks, why a cart went, which digest no file has."""

from __future__ import annotations

import errno
import hashlib

import pytest
from twisted.internet.defer import CancelledError, Deferred

from datahub.carts.pipeline import STAGE
from datahub.carts.reading import Layouts
from datahub.kit.aio import start
from tests.carts.yard import Yard


@pytest.mark.parametrize("digits", ["", "xx", "0" * 33])
async def test_digests_that_no_file_has(tmp_path, yard, digits):
    """Refused at once; for old clients it is the cart that ends in an error, naming the file and what its digest is."""
    entry = {"id": "a", "path": "x/a", "hashtype": "md5", "hashsum": digits}
    refused = await yard.post("abc", [entry])
    assert (refused.status, yard.cart("abc")) == (400, None)
    (tmp_path / "old").mkdir()
    old = Yard(tmp_path / "old", old_clients=True)
    old.put("a", b"1")
    assert (await old.post("abc", [entry])).status == 201
    old.work()
    reply = await old.client.ask("HEAD", "/abc")
    message = reply.headers["x-pacifica-message"]
    assert (reply.status, reply.headers["x-pacifica-status"]) == (500, "error")
    assert message.startswith("x/a: File hash does not match")
    assert hashlib.md5(b"1").hexdigest() in message
    assert (await old.post("long", [entry | {"hashsum": "0" * 129}])).status == 400
    old.end()


async def test_what_cartd_did_not_look_at(yard):
    """Further parameters of the tar, and a field that is null, are no fault."""
    yard.put("a", b"1")
    assert (await yard.post("abc", {"x/a": "a"}, partial=None)).status == 201
    yard.work()
    assert (await yard.client.ask("GET", "/abc?filename=t.tar&foo=bar")).status == 200
    assert (await yard.post("def", {"x/a": "a"}, partial=0)).status == 400
    assert (await yard.client.ask("GET", "/carts/abc?foo=bar")).status == 400


async def test_one_layout_for_all_who_ask(yard, monkeypatch):
    """It costs a look at every file: who asks while it is made waits for it, and one who leaves ends it for nobody."""
    await yard.make("abc", {"a": b"1"})
    made, gate = [], Deferred()
    real = Layouts._made

    async def counted(self, cart, top):
        made.append(top)
        await gate
        return await real(self, cart, top)

    monkeypatch.setattr(Layouts, "_made", counted)
    layouts = yard.verbs._layouts
    asking = [start(layouts.of(yard.cart("abc"), "t")) for _ in range(5)]
    asking[0].addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    gate.callback(None)
    yard.clock.advance(0)
    yard.clock.advance(0)
    yard.clock.advance(0)
    yard.clock.advance(0)
    assert len({id(await each) for each in asking[1:]}) == 1
    assert made == ["t"]
    assert layouts._making == {}
    gate = Deferred()
    left = start(layouts.of(yard.cart("abc"), "other"))
    left.addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    gate.callback(None)
    assert layouts._making == {}, "also if all who asked have left"


async def test_too_many_open_files(yard, monkeypatch):
    """Will pass: it is no change of the file, no digest is given up for it, and who asks is to come again."""
    yard.put("a", b"1")
    await yard.post("abc", {"a": "a"})
    yard.look(STAGE)

    def refused(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("datahub.carts.reading.os.open", refused)
        yard.work()
        assert (await yard.client.ask("GET", "/carts/abc/abc.tar")).status == 503
    assert (await yard.client.ask("GET", "/carts/abc/manifest")).status == 503
    yard.pass_time(60)
    assert (await yard.client.ask("GET", "/carts/abc/manifest")).status == 200
    assert (await yard.client.ask("GET", "/carts/abc/abc.tar")).status == 200


async def test_what_is_gone(yard):
    """410 says when, who and why, at all that the cart had; the record has it by field."""
    await yard.make("abc", {"a": b"1"})
    await yard.client.ask("DELETE", "/abc")
    record = await yard.client.ask("GET", "/carts/abc")
    submitter = record.json["submitter"]
    assert (record.status, record.json["actor"]) == (410, submitter)
    for path in ("abc.tar", "files/a", "index", "manifest"):
        reply = await yard.client.ask("GET", f"/carts/abc/{path}")
        assert (reply.status, reply.headers["x-datahub-error"]) == (410, "cart.gone"), path
        expected = f"cart 'abc' was deleted at {record.json['time_gone']}: deleted by {submitter}"
        assert reply.json["detail"] == expected, path


@pytest.mark.parametrize(
    ("url", "origin"), [(None, "http://localhost"), ("https://hub.example/", "https://hub.example")]
)
async def test_where_the_script_asks(tmp_path, url, origin):
    """Where the operator says that callers reach the hub, else where this one did."""
    yard = Yard(tmp_path, url=url)
    await yard.make("abc", {"a": b"1"})
    reply = await yard.client.ask("GET", "/carts/abc/get.sh", headers={"Host": "localhost"})
    assert f"url={origin}/carts/abc/abc.tar\n" in reply.body.decode()
    yard.end()


@pytest.mark.parametrize("path", ["get.sh", "index", "manifest", "files/a", "abc.tar", "abc.tar?wait=1s"])
async def test_why_a_cart_went(yard, path):
    """Whatever is asked of one that is gone: when it went and why, and no script that could get nothing."""
    await yard.make("abc", {"a": b"1"})
    assert (await yard.client.ask("DELETE", "/abc")).status == 200
    answer = await yard.client.ask("GET", f"/carts/abc/{path}")
    assert (answer.status, answer.headers["x-datahub-error"]) == (410, "cart.gone")
    assert answer.json["detail"].startswith("cart 'abc' was deleted at 2026-03-01T")
    assert answer.json["detail"].endswith(": deleted by anonymous@127.0.0.1")
    old = await yard.client.ask("GET", "/abc")
    assert old.json["message"] == "The cart does not exist or has already been deleted"
