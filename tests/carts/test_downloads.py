"""A cart that is being downloaded keeps its files; who deletes it may have the downloads broken off."""

from __future__ import annotations

from functools import partial

from sqlalchemy import insert

from datahub.carts.downloads import Downloads
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
