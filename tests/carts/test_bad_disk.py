"""A disk that fails at some files of a `file:` archive: each has its tries, then it is missing, or the cart's end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datahub.carts.model import Status
from datahub.carts.pipeline import TRIES
from tests.carts.test_routes import members
from tests.carts.yard import Yard

Fail = Callable[..., list[str]]
FILES = {"good": b"1", "bad": b"2", "also good": b"3"}


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Let a call of the kernel fail for files of a name; the list of the times it did, which may end it."""

    def patch(call: str, name: str, times: int = 10**9, number: int = errno.EIO) -> list[str]:
        real, failed = getattr(os, call), []

        def failing(path: Any, *more: Any, **named: Any) -> Any:
            shown = str(Path(f"/proc/self/fd/{path}").readlink()) if isinstance(path, int) else os.fspath(path)
            if shown.rpartition("/")[2] == name and len(failed) < times:
                failed.append(shown)
                raise OSError(number, os.strerror(number))
            return real(path, *more, **named)

        monkeypatch.setattr(os, call, failing)
        return failed

    return patch


async def staged(yard: Yard, **more: Any) -> None:
    for name, data in FILES.items():
        yard.put(name, data)
    entries = [{"id": name, "path": f"d/{name}", "hashtype": "adler32", "hashsum": "0" * 8} for name in FILES]
    for entry, data in zip(entries, FILES.values(), strict=True):
        entry["hashsum"] = f"{(data[0] + 1) << 16 | data[0] + 1:08x}"
    await yard.post("abc", entries, **more)
    yard.work()


@pytest.mark.parametrize("call", ["open", "fstat", "preadv"])
async def test_a_file_that_can_not_be_read(yard: Yard, fail: Fail, call: str) -> None:
    """A partial cart is ready without it after its own tries, long before `retry_for`; the rest was staged at once."""
    failed = fail(call, "bad")
    await staged(yard, partial=True)
    assert (yard.cart("abc").status, yard.cart("abc").staged_files) == (Status.STAGING, 2)
    told = (await yard.client.ask("GET", "/carts/abc")).json["waiting_on"]
    assert told["what"] == "retry"
    assert told["reason"].startswith("d/bad: ")
    yard.pass_time(60)
    cart = yard.cart("abc")
    assert (cart.status, cart.staged_files, cart.error, cart.failing_since) == (Status.READY, 2, None, None)
    assert len(failed) == TRIES
    found = members((await yard.client.ask("GET", "/abc?filename=t.tar")).body)
    assert set(found) == {"t/d/good", "t/d/also good", "t/MISSING.txt"}
    assert b"d/bad: " in found["t/MISSING.txt"]
    assert os.strerror(errno.EIO).encode() in found["t/MISSING.txt"]


async def test_the_end_of_a_cart_that_wants_all(yard: Yard, fail: Fail) -> None:
    """It names the file and the fault; staged again, the file has as many tries as before."""
    failed = fail("open", "bad", times=2 * TRIES - 1)
    await staged(yard)
    yard.pass_time(60)
    assert yard.cart("abc").status is Status.ERROR
    assert (yard.cart("abc").error or "").startswith("d/bad: product 'bad' can't be read (Input/output error)")
    assert len(failed) == TRIES
    assert (await yard.client.ask("POST", "/carts/abc/retry")).status == 202
    yard.pass_time(60)
    assert yard.cart("abc").status is Status.READY


async def test_a_fault_that_passes(yard: Yard, fail: Fail) -> None:
    """The cart is whole, and nothing is told of it any more."""
    fail("open", "bad", times=TRIES - 1)
    await staged(yard, partial=True)
    yard.pass_time(60)
    assert (yard.cart("abc").status, yard.cart("abc").staged_files) == (Status.READY, 3)
    assert [each.error for each in yard.files("abc")] == [None, None, None]


async def test_the_archive_that_is_away(yard: Yard, fail: Fail) -> None:
    """When its folder can't be read either, that is no file's fault: the cart waits, and misses nothing."""
    fail("open", "bad", times=20)
    away = fail("scandir", "archive", times=20)
    await staged(yard, partial=True)
    yard.pass_time(60)
    cart = yard.cart("abc")
    assert (cart.status, "is it mounted?" in (cart.error or "")) == (Status.STAGING, True)
    yard.pass_time(20 * 900)
    assert (yard.cart("abc").status, yard.cart("abc").staged_files, len(away)) == (Status.READY, 3, 20)


async def test_faults_of_other_kinds(yard: Yard, fail: Fail) -> None:
    """What tells nothing of this file is the cart's: it is tried on, however often."""
    fail("preadv", "bad", times=8, number=errno.ESTALE)
    await staged(yard, partial=True)
    yard.pass_time(60)
    assert yard.cart("abc").status is Status.STAGING
    yard.pass_time(3600)
    assert (yard.cart("abc").status, yard.cart("abc").staged_files) == (Status.READY, 3)
