"""The table of messages, and the only SQL on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Column, Connection, LargeBinary, String, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.mysql import LONGBLOB

from datahub.store.dialect import insert_if_absent
from datahub.store.schema import table

__all__ = ["fetch", "keep", "largest_packet", "message", "present", "remove"]

message = table(
    "message",
    Column("digest", String(64), primary_key=True),
    # MariaDB's BLOB ends at 64 KiB.
    Column("content", LargeBinary().with_variant(LONGBLOB(), "mysql"), nullable=False),
)
# Kept: to build a statement costs as much as to run it.
FETCH = select(message.c.content).where(message.c.digest == bindparam("wanted"))
# In bytes on all three, as the content is no text.
SIZE = select(func.length(message.c.content)).where(message.c.digest == bindparam("wanted")).with_for_update()
# SQLite takes a limited number of values in a statement.
TOGETHER = 500


def keep(connection: Connection, contents: Mapping[str, bytes]) -> frozenset[str]:
    """Insert what is not there; a row with another content is mended. Gives the digests that were inserted."""
    # In one order everywhere: two batches with the same messages must not wait for each other.
    return frozenset(digest for digest in sorted(contents) if _keep_one(connection, digest, contents[digest]))


def _keep_one(connection: Connection, digest: str, content: bytes) -> bool:
    if insert_if_absent(connection, message, {"digest": digest, "content": content}):
        return True
    damaged = (message.c.digest == digest, message.c.content != content)
    connection.execute(update(message).where(*damaged).values(content=content))
    return False


def fetch(connection: Connection, digest: str) -> bytes | None:
    """The content of a row."""
    content = connection.execute(FETCH, {"wanted": digest}).scalar()
    return None if content is None else bytes(content)


def present(connection: Connection, digests: Collection[str]) -> frozenset[str]:
    """Those of ``digests`` that have a row."""
    wanted, found = list(digests), set[str]()
    for first in range(0, len(wanted), TOGETHER):
        some = message.c.digest.in_(wanted[first : first + TOGETHER])
        found.update(connection.execute(select(message.c.digest).where(some)).scalars())
    return frozenset(found)


def remove(connection: Connection, digest: str) -> int | None:
    """Delete a row; how many bytes the content had, None if there was none."""
    size = connection.execute(SIZE, {"wanted": digest}).scalar()
    gone = connection.execute(delete(message).where(message.c.digest == digest)).rowcount == 1
    return int(size) if gone and size is not None else None


def largest_packet(connection: Connection) -> int | None:
    """How many bytes a statement may have on this server; None where there is no limit to speak of."""
    if connection.dialect.name != "mysql":
        return None
    return int(connection.execute(text("SELECT @@max_allowed_packet")).scalar_one())
