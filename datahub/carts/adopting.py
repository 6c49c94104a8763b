"""What is here already for a cart: looked at before it is believed, and compared with what the cart wants."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event

from sqlalchemy import Connection

from datahub.archive import Facts
from datahub.archive.cache import Holding
from datahub.carts import fetch_tables, tables
from datahub.carts.model import FAILED, STAGED, Cart, CartFile, mismatch
from datahub.carts.reading import open_file
from datahub.errors import DatahubError, PassingFault, Superseded
from datahub.files import digest_of, held

__all__ = ["Adopted", "adopt", "keep_staged", "staged"]


@dataclass(frozen=True, slots=True)
class Adopted:
    """Files as they are staged or can't be, and copies that are not any more what they were when they were kept."""

    files: list[CartFile] = field(default_factory=list)
    lost: list[Holding] = field(default_factory=list)


def adopt(found: Sequence[tuple[CartFile, Holding]], stop: Event) -> Adopted:
    """See what becomes of files that wait, and of the copies that are kept of them; blocking.

    Raises `PassingFault` for a copy that can't be read now.
    """
    adopted = Adopted()
    for file, kept in found:
        try:
            if kept.facts is None or not _is_there(kept.facts):
                adopted.lost.append(kept)
            else:
                adopted.files.append(_compared(file, kept, kept.facts, stop))
        except (DatahubError, OSError) as error:
            raise PassingFault(f"the copy of {file.name!r} can't be read: {error}") from error
    return adopted


def staged(file: CartFile, facts: Facts, digests: Mapping[str, str]) -> CartFile:
    """A file that is here as the cart wants it."""
    size, mtime_ns = facts.size, facts.mtime_ns
    known = replace(file, size=size, mtime_ns=mtime_ns, facts=facts, sha256=digests.get("sha256"))
    return replace(known, status=STAGED, error=None)


def keep_staged(connection: Connection, cart: Cart, files: Sequence[CartFile], now: int) -> None:
    """Write down, at ``now``, what has become of files of a cart; raises `Superseded` if it is not staged any more."""
    current = tables.find(connection, cart.id, lock=True)
    if current is None or current.status.settled:
        raise Superseded(f"cart {cart.uid} is not being staged any more")
    # Another helper may have taken the same ones up.
    waiting = fetch_tables.which_wait(connection, cart.id, [each.number for each in files])
    taken = [each for each in files if each.number in waiting]
    if not taken:
        return
    tables.keep_staged(connection, cart.id, taken)
    sizes = [each.size or 0 for each in taken if each.status == STAGED]
    tables.count_staged(connection, current, len(sizes), sum(sizes))
    if sizes and current.failing_since is not None:
        # It gets on: what fails from now on is told of anew.
        tables.change(connection, current, now, **tables.CALM)


def _is_there(facts: Facts) -> bool:
    try:
        return facts.hold(os.lstat(facts.place))
    except FileNotFoundError:
        return False


def _compared(file: CartFile, kept: Holding, facts: Facts, stop: Event) -> CartFile:
    if file.hashtype is not None:
        digest = _digest(file, file.hashtype, kept, facts, stop)
        if digest != file.hashsum:
            return replace(file, status=FAILED, error=mismatch(file.hashtype, file.hashsum, digest))
    return staged(file, facts, kept.digests)


def _digest(file: CartFile, algorithm: str, kept: Holding, facts: Facts, stop: Event) -> str:
    if algorithm in kept.digests:
        return kept.digests[algorithm]
    with held(open_file(file.path, facts)) as opened:
        return digest_of(opened, algorithm, stop)
