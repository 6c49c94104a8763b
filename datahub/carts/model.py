"""What a cart is: its states, its records, and what may be asked for. Pure values, no SQL, no Twisted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import merge
from itertools import pairwise
from typing import Any, Final

import msgspec

from datahub.archive import Facts, is_encodable
from datahub.errors import InvalidRequest

__all__ = ["HELD", "LENGTHS", "Cart", "CartFile", "Order", "Status", "Wish", "check_uid", "mismatch", "read_order"]

LONGEST_UID: Final = 190
LONGEST_PATH: Final = 4096
DEEPEST: Final = 255
"""The most components of a path: each is a folder that whoever unpacks it must make."""

LENGTHS: Final = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128, "adler32": 8}
"""The digests that can be given for a file, and how many hexadecimal digits they have."""

PIECE: Final = 5_000
"""So many files of a body are sorted or freed while no other thread gets on: a few milliseconds."""

WAITING, STAGED, FAILED = "waiting", "staged", "error"
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Status(StrEnum):
    """Where a cart stands."""

    WAITING = "waiting"
    STAGING = "staging"
    BUNDLING = "bundling"
    READY = "ready"
    ERROR = "error"
    DELETED = "deleted"
    EVICTED = "evicted"

    @property
    def gone(self) -> bool:
        """Whether its files are not held any more."""
        return self in (Status.DELETED, Status.EVICTED)

    @property
    def settled(self) -> bool:
        """Whether nothing is being done for it."""
        return self.gone or self in (Status.READY, Status.ERROR)


HELD: Final = tuple(status for status in Status if not status.gone)


@dataclass(frozen=True, slots=True)
class Wish:
    """One file that is asked for: ``name`` is its id in the archive, ``path`` where it goes in the cart."""

    path: str
    name: str
    hashtype: str | None
    hashsum: str | None


@dataclass(frozen=True, slots=True)
class Order:
    """What a cart is to have, in the order of the tar; ``digest`` is the same for what asks for the same."""

    wishes: list[Wish]
    partial: bool
    digest: str

    def forget(self) -> None:
        """Free the wishes, few at a time: all other threads wait while 100,000 of them are freed at once."""
        while self.wishes:
            del self.wishes[-PIECE:]


@dataclass(frozen=True, slots=True)
class Cart:
    """One row of the table; times are milliseconds since 1970, sizes bytes."""

    id: str
    uid: str
    submitter: str
    digest: str
    partial: bool
    status: Status
    error: str | None
    files: int
    size: int | None
    staged_files: int
    staged_size: int
    identity: str | None
    missing: str | None
    reason: str | None
    actor: str | None
    """Who let it go."""
    attempts: int
    failing_since: int | None
    """Since when the cart itself has met faults: each of its files has a clock of its own."""
    waiting: str | None
    """What it waits for, as `datahub.carts.waits` writes it."""
    time_created: int
    time_staging: int | None
    time_ready: int | None
    time_used: int | None
    time_error: int | None
    time_gone: int | None
    busy_until: int | None
    """Until when somebody downloads it, as far as is known; renewed meanwhile."""
    has_files: bool
    """Whether the rows of its files are still there."""


@dataclass(frozen=True, slots=True)
class CartFile:
    """A file of a cart; ``facts`` and ``place`` say which file of this host it is, once it is staged."""

    number: int
    path: str
    name: str
    hashtype: str | None
    hashsum: str | None
    status: str
    size: int | None
    mtime_ns: int | None
    sha256: str | None
    error: str | None
    holding: int | None
    facts: Facts | None
    attempts: int
    """How often it could not be read, though the archive was there."""


def check_uid(uid: str, reserved: Sequence[str]) -> None:
    """Raise `InvalidRequest` unless ``uid`` may name a cart: short, without controls, and no top-level name."""
    if not uid:
        raise InvalidRequest("Missing parameters: uid", field="uid")
    if len(uid) > LONGEST_UID:
        raise InvalidRequest(f"the uid has {len(uid)} characters; it must have {LONGEST_UID} at most", field="uid")
    if uid != uid.strip():
        # MariaDB takes them for no part of a name.
        raise InvalidRequest(f"the uid {uid!r} must not begin or end with a blank", field="uid")
    if CONTROL.search(uid) or "/" in uid or uid in (".", ".."):
        raise InvalidRequest(
            f"the uid {uid!r} must be one segment of a path without control characters, such as a UUID", field="uid"
        )
    if uid in reserved:
        raise InvalidRequest(
            f"the uid {uid!r} is a name of the hub's own, as are {', '.join(sorted(reserved))}: take a UUID",
            field="uid",
            code="cart.reserved",
        )


def read_order(document: Mapping[str, Any], check_name: Any, *, any_hashsum: bool = False) -> Order:
    """Read the body of a POST; raises `InvalidRequest` with index and field of what is wrong.

    Each of ``fileids`` may be left undecoded, as `msgspec.Raw`. ``check_name(name, field)`` says whether an id can be
    one of the archive. Keys that nobody knows are of no consequence, as they were for Pacifica's Cartd.
    With ``any_hashsum`` a digest may be one that no file has: staging finds that out.
    """
    given = document.get("fileids")
    if not isinstance(given, list) or not given:
        raise InvalidRequest(
            'fileids must be a list of at least one file: {"fileids": [{"id": "foo.txt", "path": "1/foo.txt"}]}',
            field="fileids",
        )
    partial = False if document.get("partial") is None else document["partial"]
    if not isinstance(partial, bool):
        raise InvalidRequest(f"partial is {_shown(partial)}; it must be true or false", field="partial")
    wishes = _sorted([_wish(_entry(each), index, check_name, any_hashsum) for index, each in enumerate(given)])
    _refuse_conflicts(wishes, given)
    told = hashlib.sha256(b"partial" if partial else b"whole")
    for wish in wishes:
        told.update(msgspec.json.encode((wish.path, wish.name, wish.hashtype, wish.hashsum)) + b"\n")
    return Order(wishes, partial, told.hexdigest())


def _entry(given: Any) -> Any:
    return msgspec.json.decode(given) if isinstance(given, msgspec.Raw) else given


def _sorted(wishes: list[Wish]) -> list[Wish]:
    """In the order of the tar; in pieces, as all other threads wait while a list is sorted."""
    pieces = (sorted(wishes[first : first + PIECE], key=_place) for first in range(0, len(wishes), PIECE))
    return list(merge(*pieces, key=_place))


def _place(wish: Wish) -> str:
    """Depth first, each folder's children by name: no path has a character that is less."""
    return wish.path.replace("/", "\0")


def _wish(given: Any, index: int, check_name: Any, any_hashsum: bool) -> Wish:
    field = f"fileids[{index}]"
    if not isinstance(given, dict):
        raise InvalidRequest(f"{field} is {_shown(given)}; it must be an object with id and path", field=field)
    name = given.get("id")
    if isinstance(name, bool) or not isinstance(name, int | str) or name == "":
        raise InvalidRequest(
            f"{field}.id is {_shown(name)}; it must be the file's id in the archive, text or an integer",
            field=f"{field}.id",
        )
    name = str(name)
    _refuse_characters(name, f"{field}.id")
    check_name(name, f"{field}.id")
    path = _path(given.get("path"), f"{field}.path")
    return Wish(path, name, *_hash(given, field, any_hashsum=any_hashsum))


def _path(given: Any, field: str) -> str:
    if not isinstance(given, str):
        raise InvalidRequest(f"{field} is {_shown(given)}; it must be the file's path in the cart", field=field)
    _refuse_characters(given, field)
    # Pacifica's downloader sends "/name" for a file in no folder.
    path = given.removeprefix("/")
    parts = path.split("/")
    if "" in parts or "." in parts or ".." in parts:
        raise InvalidRequest(
            f"{field} is {given[:200]!r}; it must be a relative path such as '1/2/foo.txt', "
            "without empty, '.' and '..' components",
            field=field,
        )
    if len(parts) > DEEPEST:
        raise InvalidRequest(f"{field} has {len(parts)} components; it may have {DEEPEST} at most", field=field)
    return path


def _refuse_characters(text: str, field: str) -> None:
    if CONTROL.search(text) or not is_encodable(text):
        raise InvalidRequest(f"{field} is {text[:200]!r}; it may have no control characters", field=field)
    if len(text.encode("utf-8", "surrogateescape")) > LONGEST_PATH:
        raise InvalidRequest(f"{field} is longer than {LONGEST_PATH} bytes", field=field)


def mismatch(algorithm: str, given: str | None, found: str) -> str:
    """Say that a file is not what its cart wants; Cartd's words come first."""
    return f"File hash does not match provided hash: its {algorithm} is {found}, and {given or 'nothing'} was given"


def _hash(given: Mapping[str, Any], field: str, *, any_hashsum: bool) -> tuple[str | None, str | None]:
    kind, digits = given.get("hashtype"), given.get("hashsum")
    if kind is None and digits is None:
        return None, None
    if not isinstance(kind, str) or kind.lower() not in LENGTHS:
        raise InvalidRequest(
            f"{field}.hashtype is {_shown(kind)}; it must be one of {', '.join(LENGTHS)}", field=f"{field}.hashtype"
        )
    kind = kind.lower()
    if any_hashsum and isinstance(digits, str) and len(digits) <= LENGTHS["sha512"]:
        _refuse_characters(digits, f"{field}.hashsum")
        return kind, digits.lower()
    if not isinstance(digits, str) or not re.fullmatch(f"[0-9a-fA-F]{{{LENGTHS[kind]}}}", digits):
        raise InvalidRequest(
            f"{field}.hashsum is {_shown(digits)}; {kind} has {LENGTHS[kind]} hexadecimal digits",
            field=f"{field}.hashsum",
        )
    return kind, digits.lower()


def _refuse_conflicts(wishes: Sequence[Wish], given: Sequence[Any]) -> None:
    """No two files at one place, and no file where another needs a folder: in order, these are neighbours."""
    for one, following in pairwise(wishes):
        if one.path == following.path:
            raise _conflict(one.path, given, "is there twice: each file needs a path of its own")
        if following.path.startswith(f"{one.path}/"):
            shown = repr(following.path[:200])
            raise _conflict(one.path, given, f"is a file, and a folder for {shown}: it can't be both")


def _conflict(path: str, given: Sequence[Any], what: str) -> InvalidRequest:
    index = max(number for number, each in enumerate(given) if _entry(each)["path"].removeprefix("/") == path)
    return InvalidRequest(f"fileids[{index}].path {path[:200]!r} {what}", field=f"fileids[{index}].path")


def _shown(value: Any) -> str:
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
