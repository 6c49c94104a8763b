"""A cart as JSON: its own names, times as RFC 3339, nulls left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from datahub.carts import waits
from datahub.carts.model import STAGED, Cart, CartFile, Status
from datahub.kit.clock import rfc3339

__all__ = ["CartView", "FileView", "Progress", "file_view", "view", "went"]


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bytes staged, of how many if that is known; and files."""

    done: int
    files_done: int
    files_total: int
    total: int | None = None


class FileView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a cart; ``digests`` are in hexadecimal, by algorithm."""

    path: str
    id: str
    status: str
    size: int | None = None
    digests: dict[str, str] | None = None
    error: str | None = None


class CartView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ``/carts/{uid}`` answers; ``files`` are left out in lists, ``next_file`` says where a long one goes on."""

    uid: str
    status: str
    submitter: str
    links: dict[str, str]
    partial: bool
    progress: Progress
    size: int | None = None
    error: str | None = None
    reason: str | None = None
    actor: str | None = None
    attempts: int = 0
    time_created: str | None = None
    time_staging: str | None = None
    time_ready: str | None = None
    time_used: str | None = None
    time_error: str | None = None
    time_gone: str | None = None
    expires_at: str | None = None
    waiting_on: dict[str, str] | None = None
    files: list[FileView] | None = None
    next_file: int | None = None


def view(cart: Cart, keep: int, files: Sequence[CartFile] | None = None, next_file: int | None = None) -> CartView:
    """``cart`` as a caller gets it; ``keep`` says how long (ms) the record of one that is gone stays."""
    return CartView(
        uid=cart.uid,
        status=cart.status,
        submitter=cart.submitter,
        links=_links(cart),
        partial=cart.partial,
        progress=Progress(cart.staged_size, cart.staged_files, cart.files, cart.size),
        size=cart.size,
        error=cart.error,
        reason=cart.reason,
        actor=cart.actor,
        attempts=cart.attempts,
        expires_at=None if cart.time_gone is None else rfc3339(cart.time_gone + keep),
        waiting_on=_waiting_on(cart),
        files=None if files is None else [file_view(each) for each in files],
        next_file=next_file,
        **_times(cart),
    )


def went(cart: Cart) -> str:
    """When and why a cart that is gone went."""
    when = "" if cart.time_gone is None else f" at {rfc3339(cart.time_gone)}"
    why = "" if cart.reason is None else f": {cart.reason}"
    return f"cart {cart.uid!r} was {cart.status}{when}{why}"


def _times(cart: Cart) -> dict[str, Any]:
    names = [f"time_{name}" for name in ("created", "staging", "ready", "used", "error", "gone")]
    found = {name: getattr(cart, name) for name in names}
    return {name: rfc3339(time) for name, time in found.items() if time is not None}


def _links(cart: Cart) -> dict[str, str]:
    here = f"/carts/{quote(cart.uid, safe='')}"
    links = {"self": here, "events": f"{here}/events"}
    if cart.status is Status.READY:
        links |= {name: f"{here}/{name}" for name in ("manifest", "index", "get.sh")}
        links["tar"] = f"{here}/{quote(cart.uid, safe='')}.tar"
    if cart.status is Status.ERROR:
        links["retry"] = f"{here}/retry"
    return links


def _waiting_on(cart: Cart) -> dict[str, str] | None:
    if cart.status.settled:
        return None
    what = waits.SLOT if cart.status is Status.WAITING else waits.ARCHIVE
    wait = waits.read(cart.waiting) or waits.Wait(what, cart.time_staging or cart.time_created)
    found = {"what": wait.what, "since": rfc3339(wait.since)}
    if wait.next_at is not None:
        found["next_at"] = rfc3339(wait.next_at)
    if wait.reason is not None:
        found["reason"] = wait.reason
    return found


def file_view(file: CartFile) -> FileView:
    """``file`` as a caller gets it."""
    digests = {} if file.hashtype is None or file.status != STAGED else {file.hashtype: file.hashsum or ""}
    if file.sha256:
        digests["sha256"] = file.sha256
    return FileView(file.path, file.name, file.status, file.size, digests or None, file.error)
