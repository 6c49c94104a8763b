"""The rows of a transfer's files, and the only SQL about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Row, String, Text, bindparam, delete, func, insert, select

from datahub.store.schema import table
from datahub.transfers.model import FileRecord
from datahub.transfers.movers import Checksum

__all__ = ["find", "forget", "put", "transfer_file"]

transfer_file = table(
    "transfer_file",
    Column("transfer", String(36), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64)),
    Column("error", Text),
    Column("adler32", String(8)),
)
ALGORITHMS = ("sha256", "adler32")
"""Each has a column."""

_columns = [column for column in transfer_file.c if column.name != "transfer"]
_from = (transfer_file.c.transfer == bindparam("job"), transfer_file.c.number >= bindparam("first"))
_page = select(*_columns).where(*_from).order_by(transfer_file.c.number).limit(bindparam("count"))
_drop = delete(transfer_file).where(*_from)
_put = insert(transfer_file)


def put(connection: Connection, job: str, first: int, files: Sequence[FileRecord]) -> None:
    """Write ``files`` in the place of all that an earlier attempt has left from number ``first`` on."""
    connection.execute(_drop, {"job": job, "first": first})
    if files:
        rows = [
            {
                "transfer": job,
                "number": each.number,
                "path": each.path,
                "size": each.size,
                "error": each.error,
                **dict.fromkeys(ALGORITHMS),
                **({each.checksum.algorithm: each.checksum.value} if each.checksum else {}),
            }
            for each in files
        ]
        connection.execute(_put, rows)


def find(connection: Connection, job: str, first: int, limit: int) -> list[FileRecord]:
    """Up to ``limit`` files of a transfer, from number ``first`` on."""
    rows = connection.execute(_page, {"job": job, "first": first, "count": limit})
    return [FileRecord(row.number, row.path, row.size, _checksum(row), row.error) for row in rows]


def _checksum(row: Row[Any]) -> Checksum | None:
    found = (Checksum(name, value) for name in ALGORITHMS if (value := getattr(row, name)) is not None)
    return next(found, None)


def forget(connection: Connection, jobs: Sequence[str], limit: int) -> int:
    """Remove files of ``jobs``, about ``limit`` at most; how many, so that nobody waits long for a large one."""
    some = transfer_file.c.transfer.in_(jobs)
    first = connection.execute(select(transfer_file.c.transfer).where(some).limit(1)).scalar()
    if first is None:
        return 0
    mine = transfer_file.c.transfer == first
    lowest = connection.execute(select(func.min(transfer_file.c.number)).where(mine)).scalar_one()
    return connection.execute(delete(transfer_file).where(mine, transfer_file.c.number < lowest + limit)).rowcount
