"""Idempotency keys: an answer is kept with the change it told of, and given again to the same request.

Follows draft-ietf-httpapi-idempotency-key-header: a key names one request of one caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, String, Text, delete, select

from datahub.errors import Conflict, InvalidRequest
from datahub.store.dialect import insert_if_absent
from datahub.store.schema import table

__all__ = ["Request", "check_key", "forget", "given", "once", "requests"]

LONGEST_KEY = 190

requests = table(
    "requests",
    Column("submitter", String(190), primary_key=True),
    Column("key", String(LONGEST_KEY), primary_key=True),
    Column("route", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("answer", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)
Index("requests_at", requests.c.at)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that names itself; ``digest`` is the SHA-256 of what it asks for."""

    submitter: str
    key: str
    route: str
    digest: str


def check_key(key: str) -> str:
    """Give ``key`` if it may serve as an Idempotency-Key; raises `InvalidRequest`."""
    if not key or len(key) > LONGEST_KEY or not key.isprintable() or not key.isascii():
        raise InvalidRequest(
            f"Idempotency-Key must be 1 to {LONGEST_KEY} printable ASCII characters, such as a UUID; "
            f"this one has {len(key)}",
            field="Idempotency-Key",
        )
    return key


def once(connection: Connection, request: Request, status: int, answer: str, at: int) -> str | None:
    """Keep ``answer`` for ``request``; None when it is the first of its key, else the answer that was given.

    Raises `Conflict` when the key was used for another request.
    """
    values = {"status": status, "answer": answer, "at": at, "digest": request.digest, "route": request.route}
    if insert_if_absent(connection, requests, {"submitter": request.submitter, "key": request.key, **values}):
        return None
    return given(connection, request)


def given(connection: Connection, request: Request) -> str | None:
    """The answer that was given to ``request`` before, if it was; raises `Conflict` as `once` does."""
    same_key = (requests.c.submitter == request.submitter, requests.c.key == request.key)
    found = connection.execute(select(requests).where(*same_key)).first()
    if found is None:
        return None
    if (found.route, found.digest) != (request.route, request.digest):
        raise Conflict(
            f"Idempotency-Key {request.key!r} was used for another request: give each request a key of its own",
            code="request.key_reused",
        )
    return str(found.answer)


def forget(connection: Connection, before: int) -> int:
    """Remove the keys kept since before ``before`` (ms since 1970); how many."""
    return connection.execute(delete(requests).where(requests.c.at < before)).rowcount
