"""The rows of a transfer's files, and the only SQL about them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, Column, Connection, String, Text, bindparam, delete, func, insert, select

from datahub.store.schema import table
from datahub.transfers.model import FileRecord

__all__ = ["find", "forget", "put", "transfer_file"]

transfer_file = table(
    "transfer_file",
    Column("transfer", String(36), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64)),
    Column("error", Text),
)
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
            {"transfer": job, "number": f.number, "path": f.path, "size": f.size, "sha256": f.sha256, "error": f.error}
            for f in files
        ]
        connection.execute(_put, rows)


def find(connection: Connection, job: str, first: int, limit: int) -> list[FileRecord]:
    """Up to ``limit`` files of a transfer, from number ``first`` on."""
    rows = connection.execute(_page, {"job": job, "first": first, "count": limit})
    return [FileRecord(*row) for row in rows]


def forget(connection: Connection, jobs: Sequence[str], limit: int) -> int:
    """Remove files of ``jobs``, about ``limit`` at most; how many, so that nobody waits long for a large one."""
    some = transfer_file.c.transfer.in_(jobs)
    first = connection.execute(select(transfer_file.c.transfer).where(some).limit(1)).scalar()
    if first is None:
        return 0
    mine = transfer_file.c.transfer == first
    lowest = connection.execute(select(func.min(transfer_file.c.number)).where(mine)).scalar_one()
    return connection.execute(delete(transfer_file).where(mine, transfer_file.c.number < lowest + limit)).rowcount
