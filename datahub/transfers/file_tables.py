"""The rows of a transfer's files, and the only SQL about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Row, String, Text, bindparam, delete, func, insert, select

from datahub.store.schema import table
from datahub.transfers.model import FileRecord
from datahub.transfers.movers import Checksum

__all__ = ["amend", "done", "find", "forget", "forget_failed", "news", "put", "transfer_file"]

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
_drop_one = delete(transfer_file).where(
    transfer_file.c.transfer == bindparam("job"), transfer_file.c.number == bindparam("its_number")
)
_put = insert(transfer_file)


def put(connection: Connection, job: str, first: int, files: Sequence[FileRecord]) -> None:
    """Write ``files`` in the place of all that an earlier attempt has left from number ``first`` on."""
    connection.execute(_drop, {"job": job, "first": first})
    _insert(connection, job, files)


def _insert(connection: Connection, job: str, files: Sequence[FileRecord]) -> None:
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
    if rows:
        connection.execute(_put, rows)


def news(connection: Connection, job: str, files: Sequence[FileRecord]) -> list[FileRecord]:
    """Those of ``files`` that are not there yet, or otherwise."""
    mine = transfer_file.c.transfer == job
    known = {row.number: _record(row) for row in connection.execute(select(*_columns).where(mine))}
    return [each for each in files if known.get(each.number) != each]


def amend(connection: Connection, job: str, files: Sequence[FileRecord]) -> None:
    """Write ``files`` in the place of what is there by their numbers."""
    if files:
        connection.execute(_drop_one, [{"job": job, "its_number": each.number} for each in files])
    _insert(connection, job, files)


def done(connection: Connection, job: str) -> dict[int, FileRecord]:
    """The files of a transfer that were copied, by their numbers."""
    mine = (transfer_file.c.transfer == job, transfer_file.c.error.is_(None))
    return {row.number: _record(row) for row in connection.execute(select(*_columns).where(*mine))}


def forget_failed(connection: Connection, job: str) -> None:
    """Remove the files of a transfer whose copy failed: they are copied anew."""
    connection.execute(delete(transfer_file).where(transfer_file.c.transfer == job, transfer_file.c.error.isnot(None)))


def find(connection: Connection, job: str, first: int, limit: int) -> list[FileRecord]:
    """Up to ``limit`` files of a transfer, from number ``first`` on."""
    rows = connection.execute(_page, {"job": job, "first": first, "count": limit})
    return [_record(row) for row in rows]


def _record(row: Row[Any]) -> FileRecord:
    return FileRecord(row.number, row.path, row.size, _checksum(row), row.error)


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
