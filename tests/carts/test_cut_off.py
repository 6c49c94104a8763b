"""What is cut off while it is sent: nothing stays open, and nobody takes a part for the whole."""

from __future__ import annotations

import os
from functools import partial
from threading import Event

import pytest
from twisted.internet.defer import CancelledError

from datahub.carts import tables
from datahub.carts.reading import Reading, content
from datahub.kit.aio import start
from datahub.kit.threads import ReactorPool
from datahub.web.sending import FilePart, SourceChanged
from tests.carts.test_routes import members
from tests.carts.yard import Yard
from tests.waiting import until


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_download_that_is_cut_off_while_files_are_opened(tmp_path, reactor, monkeypatch, leaves):
    """What a thread opened for one who has left is closed."""
    pool = ReactorPool("serve", 1, reactor)
    pool.start()
    yard = Yard(tmp_path)
    await yard.make("abc", {"a": bytes(100_000)})
    cart, go, begun, opened = yard.cart("abc"), Event(), Event(), []

    def slow(*arguments):
        begun.set()
        go.wait(45)
        opened.append(content(*arguments))
        return opened[0]

    monkeypatch.setattr("datahub.carts.reading.content", slow)
    closed: list[FilePart] = []

    def close(part: FilePart) -> None:
        closed.append(part)

    monkeypatch.setattr(FilePart, "close", close)
    layout = await yard.verbs.layout(cart, "abc")
    batches = Reading(cart, layout, 0, layout.length).batches(yard.store, pool)
    waiting = start(anext(batches))
    waiting.addErrback(lambda failure: failure.trap(CancelledError))
    await until(begun.is_set, "a thread opens the file")
    if leaves:
        waiting.cancel()
    go.set()
    await until(lambda: opened and (closed or not leaves), "it is opened, and closed if need be")
    await waiting
    assert [each is opened[0] for each in closed] == ([True] if leaves else [])
    await batches.aclose()
    await pool.stop()
    assert isinstance(opened[0], FilePart)
    os.close(opened[0].file)
    yard.end()


@pytest.mark.parametrize("what", ["manifest", "index"])
async def test_rows_that_go_while_they_are_told_of(yard, monkeypatch, what):
    """What is cut short breaks off: it never looks whole."""
    await yard.make("abc", {"a": b"1", "b": b"2", "c": b"3"})
    monkeypatch.setattr("datahub.carts.routes.WINDOW", 2)
    assert b"abc/c" in (await yard.client.ask("GET", "/carts/abc/manifest")).body
    cart, routes = yard.cart("abc"), yard.routes
    layout = await yard.verbs.layout(cart, "abc")
    pieces = routes._manifest(cart, "abc") if what == "manifest" else routes._index(cart, layout, {"top": "abc"})
    told = [await anext(pieces)] if what == "manifest" else [await anext(pieces), await anext(pieces)]
    yard.store.now(partial(tables.forget_files, numbers=[cart.id]))
    with pytest.raises(SourceChanged):
        told += [each async for each in pieces]
    assert not told[-1].endswith(b"]}\n")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (b'{"id": "a", "path": "\\x"}', "the body can't be read as JSON"),
        (b'{"id": "a", "path": "\xff"}', "the JSON in the body is not UTF-8"),
        (b'{"id": "a", "path": "x"', "the body can't be read as JSON"),
        (b"[" * 100_000, "the JSON in the body is nested too deep"),
    ],
)
async def test_a_file_in_a_body_that_is_broken(yard, entry, text):
    """It is told of as anything else that is no JSON, though files are decoded one by one."""
    reply = await yard.client.ask("POST", "/abc", data=b'{"fileids": [{"id": "b", "path": "b"}, ' + entry + b"]}")
    assert (reply.status, text in reply.body.decode()) == (400, True), reply.body[:300]


async def test_rows_in_memory(yard, monkeypatch):
    """Of large files few rows are read ahead, of small ones many: a slow download holds little."""
    await yard.make("large", {f"{n:03}": bytes(300_000) for n in range(40)})
    await yard.make("small", {f"s{n:03}": b"x" for n in range(600)})
    asked: list[int] = []
    window = tables.window

    def counted(connection, number, first, count):
        asked.append(count)
        return window(connection, number, first, count)

    monkeypatch.setattr("datahub.carts.reading.tables.window", counted)
    for uid, expected in (("large", [16, 16, 8]), ("small", [500, 100])):
        asked.clear()
        answer = await yard.client.ask("GET", f"/carts/{uid}/t.tar")
        assert len(members(answer.body)) == yard.cart(uid).files
        assert asked == expected
