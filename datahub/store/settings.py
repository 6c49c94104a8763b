"""Small values that all hubs share: the clock's offset, the last event's position, secrets."""

from __future__ import annotations

from sqlalchemy import Column, String, Text

from datahub.store.schema import table

__all__ = ["setting"]

setting = table(
    "setting",
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
