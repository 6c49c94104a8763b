"""The verbs: keep, find, look for, delete."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from datahub.auth import Caller
from datahub.errors import Damaged, InvalidRequest, Mismatch, NoSpace, NotFound, TooLarge, Unavailable
from datahub.kit.aio import start
from datahub.messages.model import digest_of
from datahub.messages.service import INLINE, MOST
from tests.messages.keeping import Shelf, service

FOO = digest_of(b"foo")
OPERATOR = Caller("operator", "token", frozenset({"admin"}), "127.0.0.1")


async def test_what_was_posted_is_found():
    """By the digest that was given for it, in any case."""
    messages = service(Shelf())
    assert await messages.post(b"foo") == FOO
    assert (await messages.find(FOO)).content == b"foo"
    assert (await messages.find(FOO.upper())).content == b"foo"


async def test_memory_saves_the_store_work():
    """A message that was put or read is not asked for again."""
    shelf = Shelf()
    messages = service(shelf)
    await messages.post(b"foo")
    await messages.find(FOO)
    assert shelf.asked == ["put"]
    other = service(shelf)
    await other.find(FOO)
    await other.find(FOO)
    assert shelf.asked == ["put", "get"]


async def test_what_is_in_memory_is_put_all_the_same():
    """Another hub may have deleted it: an answer means the store, not the memory."""
    shelf = Shelf()
    messages = service(shelf)
    await messages.post(b"foo")
    shelf.contents.clear()
    await messages.post(b"foo")
    assert shelf.contents == {FOO: b"foo"}


async def test_a_large_message_is_hashed_elsewhere():
    """With the same result."""
    messages = service(Shelf(), limit=10 * INLINE)
    content = b"x" * (INLINE + 1)
    assert (await messages.find(await messages.post(content))).content == content


@pytest.mark.parametrize("given", ["", "foo", "a" * 64, FOO[:-1], f"{FOO} "])
async def test_unknown(given):
    """Whether it is a digest or none, it is not found under its name as it was given."""
    with pytest.raises(NotFound) as refused:
        await service(Shelf()).find(given)
    assert (str(refused.value), refused.value.code) == (f"Message not found for hash: {given}", "message.not_found")


@pytest.mark.parametrize("damage", [b"", b"fo", b"Foo", b"foo\0"])
async def test_a_damaged_message_is_never_given_out(damage):
    """It is logged and counted with each read, told to the operator, and whole again when it is sent again."""
    shelf = Shelf()
    shelf.contents[FOO] = damage
    messages = service(shelf)
    for _ in range(2):
        with capturedLogs() as events, pytest.raises(Damaged) as refused:
            await messages.find(FOO)
        assert FOO in str(refused.value)
        assert [event["digest"] for event in events if "digest" in event] == [FOO]
    assert messages.damaged == 2
    assert await messages.check() == "2 reads found a damaged message since the start: the log names them"
    await messages.post(b"foo")
    assert (await messages.find(FOO)).content == b"foo"


async def test_put_says_whether_it_is_new():
    """And takes the digest in any case."""
    messages = service(Shelf())
    assert await messages.put(FOO.upper(), b"foo") == (FOO, True)
    assert await messages.put(FOO, b"foo") == (FOO, False)


@pytest.mark.parametrize("given", ["bar", digest_of(b"bar")])
async def test_put_under_another_name(given):
    """Both digests are told, and nothing is kept."""
    shelf = Shelf()
    with pytest.raises(Mismatch) as refused:
        await service(shelf).put(given, b"foo")
    assert FOO in str(refused.value)
    assert given in str(refused.value)
    assert shelf.contents == {}


async def test_batch():
    """The digests come in the order of the messages, those that are repeated too, by one put."""
    shelf = Shelf()
    contents = [b"b", b"a", b"b", b""]
    assert await service(shelf).batch(contents) == [digest_of(content) for content in contents]
    assert shelf.asked == ["put"]


async def test_a_batch_with_one_that_is_too_large():
    """Nothing of it is kept."""
    shelf = Shelf()
    with pytest.raises(TooLarge):
        await service(shelf, limit=3).batch([b"foo", b"four"])
    assert shelf.asked == []


async def test_the_limit():
    """It holds for each way in, to the byte."""
    messages = service(Shelf(), limit=3)
    await messages.post(b"foo")
    with pytest.raises(TooLarge, match="the message has 4 bytes; at most 3 are taken"):
        await messages.post(b"four")
    with pytest.raises(TooLarge):
        await messages.put(digest_of(b"four"), b"four")


async def test_too_many_at_once():
    """A request names a thousand messages at most."""
    messages = service(Shelf())
    with pytest.raises(InvalidRequest, match="there are 1001 messages"):
        await messages.batch([b""] * (MOST + 1))
    with pytest.raises(InvalidRequest):
        await messages.missing(["x"] * (MOST + 1))


async def test_missing():
    """In the order and the spelling of the question; what is no digest can't be there."""
    messages = service(Shelf())
    await messages.post(b"foo")
    asked = ["x", FOO, FOO.upper(), digest_of(b"bar").upper(), ""]
    assert await messages.missing(asked) == ["x", digest_of(b"bar").upper(), ""]
    assert await messages.missing([]) == []


async def test_delete():
    """It is gone from the memory as well, and deleted once."""
    messages = service(Shelf())
    await messages.post(b"foo")
    await messages.delete(FOO.upper(), OPERATOR)
    for attempt in (messages.find(FOO), messages.delete(FOO, OPERATOR)):
        with pytest.raises(NotFound):
            await attempt
    with pytest.raises(NotFound, match="hash: foo"):
        await messages.delete("foo", OPERATOR)


@pytest.mark.parametrize("verb", ["find", "post"])
async def test_delete_while_it_is_read_or_put(verb):
    """What was under way when it was deleted does not bring it back into the memory."""
    shelf = Shelf()
    messages = service(shelf)
    shelf.contents[FOO] = b"foo"
    shelf.held = Deferred()
    under_way = start(messages.find(FOO) if verb == "find" else messages.post(b"foo"))
    await messages.delete(FOO, OPERATOR)
    shelf.held.callback(None)
    await under_way
    assert messages.remembered(FOO) is None


async def test_what_another_hub_deleted():
    """It is out of the memory once that is known; while nothing is known of other hubs the memory is not asked."""
    shelf, trusted = Shelf(), True
    messages = service(shelf, trusted=lambda: trusted)
    await messages.post(b"foo")
    shelf.contents.clear()
    trusted = False
    with pytest.raises(NotFound):
        await messages.find(FOO)
    trusted = True
    assert messages.remembered(FOO) is not None
    messages.forget(FOO)
    with pytest.raises(NotFound):
        await messages.find(FOO)


async def test_a_store_that_is_away():
    """Its fault is the answer, and nothing is remembered as kept."""
    shelf = Shelf()
    messages = service(shelf)
    shelf.fault = Unavailable("it is away")
    for verb in (messages.post(b"foo"), messages.find(FOO), messages.missing([FOO]), messages.delete(FOO, OPERATOR)):
        with pytest.raises(Unavailable):
            await verb
    assert await messages.check() == "it is away"
    assert messages.remembered(FOO) is None


async def test_a_full_disk():
    """Nothing new is taken; what is there is given and may be deleted."""
    shelf = Shelf()

    def full() -> None:
        raise NoSpace("no room")

    await service(shelf).post(b"foo")
    messages = service(shelf, admit=full)
    for verb in (messages.post(b"bar"), messages.put(FOO, b"foo"), messages.batch([b"bar"])):
        with pytest.raises(NoSpace):
            await verb
    assert (await messages.find(FOO)).content == b"foo"
    await messages.delete(FOO, OPERATOR)
