"""What is here already for a cart: looked at before it is believed, and compared with what the cart wants."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Event

from datahub.archive import Facts
from datahub.archive.cache import Holding
from datahub.carts.model import FAILED, STAGED, CartFile
from datahub.carts.reading import open_file
from datahub.errors import DatahubError, PassingFault
from datahub.files import digest_of, held

__all__ = ["Adopted", "adopt"]


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
                adopted.files.append(_staged(file, kept, kept.facts, stop))
        except (DatahubError, OSError) as error:
            raise PassingFault(f"the copy of {file.name!r} can't be read: {error}") from error
    return adopted


def _is_there(facts: Facts) -> bool:
    try:
        return facts.hold(os.lstat(facts.place))
    except FileNotFoundError:
        return False


def _staged(file: CartFile, kept: Holding, facts: Facts, stop: Event) -> CartFile:
    digest = _digest(file, kept, facts, stop)
    if digest != file.hashsum:
        told = f"File hash does not match provided hash: its {file.hashtype} is {digest}"
        return replace(file, status=FAILED, error=told)
    known = {"size": facts.size, "mtime_ns": facts.mtime_ns, "facts": facts, "sha256": kept.digests.get("sha256")}
    return replace(file, status=STAGED, error=None, **known)  # type: ignore[arg-type]  # each has its column's type


def _digest(file: CartFile, kept: Holding, facts: Facts, stop: Event) -> str | None:
    if file.hashtype is None:
        return None
    if file.hashtype in kept.digests:
        return kept.digests[file.hashtype]
    with held(open_file(file.path, facts)) as opened:
        return digest_of(opened, file.hashtype, stop)
