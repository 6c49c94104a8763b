"""The archive interface: whatever comes over the wire is either right or a fault that says what it is."""

from __future__ import annotations

import hashlib
import os
from threading import Event

import pytest
import pytest_twisted

from datahub.archive import Faulty
from datahub.archive.pacifica import STEP, NoProducts, PacificaArchive, Patience, Standing
from datahub.errors import FinalFault, PassingFault
from datahub.kit.aio import sleep, start
from datahub.kit.threads import ReactorPool
from tests.fakes.pacifica import FakeArchive, found, sent
from tests.waiting import until

QUICK = Patience(connect=2.0, answer=1.0, stall=1.0)
MTIME = 1_795_317_557_723_247_500


@pytest_twisted.async_yield_fixture
async def fake(reactor):
    """An archive interface that a test tells what to answer."""
    fake = FakeArchive(reactor)
    yield fake
    await fake.stop()


@pytest_twisted.async_yield_fixture
async def archive(reactor, fake):
    """Our side of it."""
    pool = ReactorPool("disk", 2, reactor)
    pool.start()
    yield PacificaArchive(fake.url, pool, reactor, QUICK)
    await pool.stop()


async def fetched(archive, tmp_path, size, *algorithms, progress=lambda _: None):
    target = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
    try:
        digests = await archive.fetch("a", target, size, algorithms, progress)
        return os.pread(target, size + 10, 0), digests
    finally:
        os.close(target)


async def test_what_is_asked(archive, fake, tmp_path):
    """POST, HEAD and GET with the id as the path, odd characters encoded."""
    fake.answers = {"POST": sent(b'{"message": "File was staged"}'), "HEAD": found(), "GET": sent(b"foo")}
    await archive.stage("a?b#c/d e%ü")
    assert await archive.look("12345") == Standing(3, MTIME, True)
    assert await fetched(archive, tmp_path, 3, "md5") == (b"foo", {"md5": hashlib.md5(b"foo").hexdigest()})
    assert fake.asked == ["POST /a%3Fb%23c/d%20e%25%C3%BC", "HEAD /12345", "GET /a"]


async def test_an_archive_that_has_a_name(reactor, fake):
    """Its addresses are looked up, whichever of them it listens at."""
    pool = ReactorPool("disk", 1, reactor)
    fake.answers = {"HEAD": found()}
    named = PacificaArchive(fake.url.replace("127.0.0.1", "localhost"), pool, reactor, QUICK)
    assert await named.look("a") == Standing(3, MTIME, True)
    unknown = PacificaArchive("http://archive.invalid:1/", pool, reactor, QUICK)
    with pytest.raises(PassingFault, match="the archive can't be reached"):
        await unknown.look("a")


@pytest.mark.parametrize(
    ("answer", "standing"),
    [
        (found(media="tape"), Standing(3, MTIME, False)),
        (found(0), Standing(0, MTIME, True)),
        (found(mtime="1700000000"), Standing(3, 1_700_000_000 * 10**9, True)),
        (found(mtime="-1.5"), Standing(3, -1_500_000_000, True)),
        (found(mtime="Tue, 14 Nov 2023 22:13:20 GMT"), Standing(3, 1_700_000_000 * 10**9, True)),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nLast-Modified: 1.5\r\nX-Pacifica-File-Storage-Media: disk\r\n\r\n",  # noqa: E501
            Standing(7, 1_500_000_000, True),
        ),
    ],
)
async def test_how_a_file_stands(archive, fake, answer, standing):
    """As 0.4.2 tells it, and as older ones did."""
    fake.answers = {"HEAD": answer}
    assert await archive.look("a") == standing


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", FinalFault),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Faulty),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", Faulty),
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n", Faulty),
        (b"HTTP/1.1 429 Slowly\r\nContent-Length: 0\r\n\r\n", PassingFault),
        (b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n", PassingFault),
        (b"HTTP/1.1 301 Away\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", Faulty),
        (found("x"), Faulty),
        (found(-3), Faulty),
        (found(""), Faulty),
        (found("9" * 5000), Faulty),
        (found("1" + "0" * 17), Faulty),
        (found(mtime="never"), Faulty),
        (found(mtime="10413792000.0"), Faulty),
        (found(mtime="99999999999999999999.5"), Faulty),
        (found(mtime=""), Faulty),
        (found(media="error"), Faulty),
        (b"nonsense\r\n\r\n", PassingFault),
        (b"", PassingFault),
    ],
)
async def test_a_wrong_standing(archive, fake, answer, fault):
    """Each is a fault of its kind: of the file, of the archive, or one that may pass."""
    fake.answers = {"HEAD": answer}
    fake.close = bool(answer)
    with pytest.raises(fault) as raised:
        await archive.look("a")
    assert type(raised.value) is fault
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (sent(b"foo"), None),
        (sent(b"fo"), Faulty),
        (sent(b"fooo"), Faulty),
        (sent(b"fo", 3), Faulty),
        (b"HTTP/1.1 200 OK\r\n\r\nfo", Faulty),
        (b"HTTP/1.1 200 OK\r\n\r\nfoo", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfo\r\n", Faulty),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nfoo\r\n0\r\n\r\n", None),
        (sent(b"foo", more="Content-Encoding: gzip\r\n"), Faulty),
        (b"HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nfoo", FinalFault),
        (b"HTTP/1.1 206 Some\r\nContent-Length: 3\r\n\r\nfoo", Faulty),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 12\r\n\r\nNo such file", FinalFault),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nfoo", Faulty),
        (b"", PassingFault),
    ],
)
async def test_how_a_file_comes(archive, fake, tmp_path, answer, fault):
    """Whole, or a fault: too little, too much, cut off, encoded, another status, silence."""
    fake.answers = {"GET": answer}
    fake.close = bool(answer)
    if fault is None:
        assert (await fetched(archive, tmp_path, 3))[0] == b"foo"
        return
    with pytest.raises(fault) as raised:
        await fetched(archive, tmp_path, 3)
    assert type(raised.value) is fault


async def test_one_that_hangs(archive, fake, tmp_path):
    """A body that stops in the middle is given up, and its connection closed."""
    fake.answers = {"GET": sent(b"fo", 3)}
    fake.close = False
    with pytest.raises(PassingFault, match="silent"):
        await fetched(archive, tmp_path, 3)


async def test_a_large_one(archive, fake, tmp_path):
    """In pieces, written by a thread: all of it, with its digests."""
    data = os.urandom(9_000_001)
    fake.answers = {"GET": sent(data)}
    counted = []
    body, digests = await fetched(archive, tmp_path, len(data), "sha256", "sha1", progress=counted.append)
    assert body == data
    assert digests == {"sha256": hashlib.sha256(data).hexdigest(), "sha1": hashlib.sha1(data).hexdigest()}
    assert sum(counted) == len(data)


@pytest.mark.parametrize("how", ["cancelled", "cancelled twice", "too long", "silent"])
async def test_nobody_writes_behind_the_end(archive, fake, tmp_path, monkeypatch, how):
    """However it ends: the file may be closed then, as no thread is at it any more."""
    fake.answers = {"GET": sent(bytes(3 * STEP), 9 * STEP)}
    fake.close = False
    begun, go, written = Event(), Event(), []
    size = 2 * STEP if how == "too long" else 9 * STEP

    def slow(target: int, data: bytes, at: int) -> int:
        begun.set()
        go.wait(45)
        written.append(at)
        return len(data)

    monkeypatch.setattr("datahub.archive.pacifica.os.pwrite", slow)
    target = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
    ended: list[int] = []
    fetching = start(archive.fetch("a", target, size, [], lambda _: None))
    fetching.addErrback(lambda _: ended.append(len(written)))
    await until(begun.is_set, "a thread writes")
    for _ in range({"cancelled": 1, "cancelled twice": 2}.get(how, 0)):
        fetching.cancel()
    await sleep(1.5 if how == "silent" else 0.1, reactor_of(archive))
    assert ended == []
    go.set()
    await until(lambda: ended, "the end is told")
    count = len(written)
    await sleep(0.05, reactor_of(archive))
    assert ended == [count] == [len(written)]
    os.close(target)


def reactor_of(archive):
    return archive._reactor


async def test_nobody_there(archive, fake):
    """A refused connection may pass."""
    fake.answers = {"HEAD": b""}
    archive._url = "http://127.0.0.1:1"
    with pytest.raises(PassingFault, match="can't be reached"):
        await archive.look("a")


async def test_no_products():
    """Deliveries can't be made from such an archive, and say so."""
    with pytest.raises(FinalFault):
        await NoProducts().locate("005")
