"""Whether a database server takes messages of the size that is allowed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from datahub.errors import StartError
from datahub.messages import tables
from datahub.messages.stores.database import check_packets


@pytest.mark.parametrize(("largest", "limit"), [(None, 64_000_000), (16_777_216, 1_000_000), (2_065_536, 1_000_000)])
def test_room_enough(monkeypatch: pytest.MonkeyPatch, largest: int | None, limit: int) -> None:
    """Or no limit to speak of: the hub starts."""
    monkeypatch.setattr(tables, "largest_packet", lambda _: largest)
    connection: Any = SimpleNamespace()
    check_packets(connection, limit)


def test_too_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said at the start, and what to do, and not when the first large message comes."""
    monkeypatch.setattr(tables, "largest_packet", lambda _: 1_000_000)
    connection: Any = SimpleNamespace()
    with pytest.raises(StartError, match="raise max_allowed_packet there, or lower the limit"):
        check_packets(connection, 1_000_000)
