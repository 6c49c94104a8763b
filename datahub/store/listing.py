"""Lists of records: in the order of their time, a page at a time, each filter by an index of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, or_, select

from datahub.kit.filters import Filter

__all__ = ["Listing"]

Columns = tuple[ColumnElement[int], ColumnElement[str], ColumnElement[str]]
Order = tuple[ColumnElement[int], ColumnElement[str]]


class Listing:
    """The records of ``table``, which has columns id, submitter and status, in the order of the column ``time``."""

    def __init__(self, table: Table, time: str, columns: Sequence[ColumnElement[Any]] | None = None) -> None:
        self._table = table
        self._time = time
        self._columns = [*table.c] if columns is None else columns

    def find(
        self, connection: Connection, wanted: Filter, *conditions: ColumnElement[bool], sorts: bool = False
    ) -> list[Any]:
        """The rows that ``wanted`` asks for and ``conditions`` hold of, in its order.

        With ``sorts`` the conditions have an index that finds few rows: the indexes which have the order are hidden
        from the database.
        """
        columns = self._table.c
        named: Columns = (columns[self._time], columns.submitter, columns.status)
        time, submitter, status = (named[0] + 0, named[1] + "", named[2] + "") if sorts else named
        order = (time, columns.id)
        found = list(conditions)
        if wanted.submitter is not None:
            found.append(submitter == wanted.submitter)
        if wanted.since is not None:
            found.append(time >= wanted.since)
        if wanted.until is not None:
            found.append(time < wanted.until)
        if wanted.behind is not None:
            found.append(_behind(order, wanted.behind, wanted.newest_first))
        if not wanted.statuses:
            return self._page(connection, wanted, order, found)
        # One query a status: an index gives each in order, which it can't for several at once.
        pages = [self._page(connection, wanted, order, [*found, status == each]) for each in wanted.statuses]
        rows = sorted((row for page in pages for row in page), key=attrgetter(self._time, "id"))
        return (rows[::-1] if wanted.newest_first else rows)[: wanted.limit]

    def oldest(self, connection: Connection, statuses: Iterable[str]) -> dict[str, int]:
        """When the oldest record of each of ``statuses`` was made, if there is one."""
        columns, found = self._table.c, {}
        time = columns[self._time]
        for status in statuses:
            first = select(time).where(columns.status == status).order_by(time, columns.id).limit(1)
            made = connection.execute(first).scalar()
            if made is not None:
                found[str(status)] = made
        return found

    def _page(
        self, connection: Connection, wanted: Filter, order: Order, conditions: Sequence[ColumnElement[bool]]
    ) -> list[Any]:
        columns = [column.desc() for column in order] if wanted.newest_first else order
        query = select(*self._columns).where(*conditions).order_by(*columns).limit(wanted.limit)
        return list(connection.execute(query))


def _behind(order: Order, last: tuple[int, str], newest_first: bool) -> ColumnElement[bool]:
    time, number = last
    if newest_first:
        return or_(order[0] < time, and_(order[0] == time, order[1] < number))
    return or_(order[0] > time, and_(order[0] == time, order[1] > number))
