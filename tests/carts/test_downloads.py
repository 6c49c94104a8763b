"""A cart that is being downloaded keeps its files; who deletes it may have the downloads broken off."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import insert
from twisted.internet.defer import Deferred

from datahub.carts import tables
from datahub.carts.downloads import Downloads
from datahub.carts.model import Status
from datahub.errors import Unavailable
from datahub.kit.aio import start
from datahub.work.tables import hub
from tests.carts.yard import Yard


async def test_a_download_keeps_what_it_reads(yard):
    """The cart is gone for everybody else; its files go when the download has ended and that was told."""
    await yard.make("abc", {"a": b"1"})
    downloads, cart = yard.verbs.downloads, yard.cart("abc")
    with downloads.under_way(cart, lambda: None):
        await downloads.begin(cart)
        assert (await yard.client.ask("DELETE", "/abc")).status == 200
        assert (await yard.client.ask("GET", "/abc")).status == 404
        yard.clock.advance(200)
        yard.chore("downloads")
        yard.chore("carts that are gone")
        assert yard.files("abc") != []
    yard.chore("downloads")
    yard.chore("carts that are gone")
    assert yard.files("abc") == []


async def test_downloads_wait_for_nothing_that_takes_long(yard):
    """Staging, digests and copies may fill their own threads: what is downloaded is read in others."""
    data = bytes(300_000)
    await yard.make("abc", {"a": data})
    yard.disk.busy = True
    for path in ("/abc", "/carts/abc/files/a"):
        answer = await yard.client.ask("GET", path)
        assert answer.status == 200
        assert data in answer.body


async def test_another_hubs_download(yard):
    """What another hub has told of holds for its lease, and no longer."""
    await yard.make("abc", {"a": b"1"})
    start(yard.verbs.downloads.begin(yard.cart("abc")))
    await yard.client.ask("DELETE", "/abc")
    yard.clock.advance(60)
    yard.chore("carts that are gone")
    assert yard.files("abc") != []
    yard.clock.advance(60)
    yard.chore("carts that are gone")
    assert yard.files("abc") == []


async def test_two_hubs_send_one_cart(yard):
    """That one of them has ended is no word of the other's: the files stay until both have."""
    rows = [{"owner": each, "node": each, "version": "1", "beat": 0} for each in ("a", "b")]
    yard.store.now(lambda connection: connection.execute(insert(hub), rows))
    await yard.make("abc", {"a": b"1"})
    ours, cart = yard.verbs.downloads, yard.cart("abc")
    theirs = Downloads(yard.store, yard.hub_clock, yard.disk)
    with theirs.under_way(cart, lambda: None):
        await theirs.begin(cart)
        with ours.under_way(cart, lambda: None):
            await ours.begin(cart)
            assert (await yard.client.ask("DELETE", "/abc")).status == 200
        yard.chore("downloads")
        yard.chore("carts that are gone")
        assert yard.files("abc") != []
        yard.clock.advance(20)
        await theirs.renew()
        yard.clock.advance(20)
        yard.chore("carts that are gone")
        assert yard.files("abc") != []
    await theirs.renew()
    yard.clock.advance(31)
    yard.chore("carts that are gone")
    assert yard.files("abc") == []


async def test_downloads_are_broken_off(tmp_path):
    """With on_delete = "break"; by default they go on."""
    for how, expected in (("finish", []), ("break", ["broken"])):
        folder = tmp_path / how
        folder.mkdir()
        yard = Yard(folder, on_delete=how)
        await yard.make("abc", {"a": b"1"})
        told: list[str] = []
        with yard.verbs.downloads.under_way(yard.cart("abc"), partial(told.append, "broken")):
            await yard.client.ask("DELETE", "/abc")
        assert told == expected
        yard.end()


@pytest.mark.parametrize("how", ["finish", "break"])
@pytest.mark.parametrize("lost", [False, True])
async def test_another_hub_deletes(tmp_path, how, lost):
    """With on_delete = "break" its downloads here end at once too, or a little later if the signal was lost."""
    ours = Yard(tmp_path, on_delete=how)
    theirs = Yard(tmp_path, beside=ours, on_delete=how)
    await ours.make("abc", {"a": b"1"})
    await ours.make("other", {"b": b"2"})
    if lost:
        theirs.queue.others.clear()
    told: list[str] = []
    downloads = ours.verbs.downloads
    with (
        downloads.under_way(ours.cart("abc"), partial(told.append, "abc")),
        downloads.under_way(ours.cart("other"), partial(told.append, "other")),
    ):
        assert (await theirs.client.ask("DELETE", "/abc")).status == 200
        assert told == (["abc"] if how == "break" and not lost else [])
        if how == "break":
            ours.chore("downloads of deleted carts")
            assert set(told) == {"abc"}
    theirs.end()


async def test_deletions_while_the_database_is_away(tmp_path):
    """They are broken off once it is there again; what is signalled during a look is looked at after it."""
    ours = Yard(tmp_path, on_delete="break")
    await ours.make("abc", {"a": b"1"})
    told: list[str] = []
    downloads = ours.verbs.downloads
    with downloads.under_way(ours.cart("abc"), partial(told.append, "abc")):
        gate = ours.store.gates["deleted carts"] = Deferred()
        for _ in range(3):
            downloads.look_for_deleted()
        del ours.store.gates["deleted carts"]
        gate.callback(None)
        assert (ours.store.names.count("deleted carts"), told) == (2, [])
        ours.store.now(partial(tables.change, before=ours.cart("abc"), now=1, status=Status.DELETED))
        ours.store.away["deleted carts"] = Unavailable("the database is away")
        downloads.look_for_deleted()
        assert told == []
        ours.store.away.clear()
        downloads.look_for_deleted()
        assert told == ["abc"]
    ours.end()
