"""What the tests of sandboxes share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest_twisted

from tests.fakes.mesos import Cluster
from tests.sandboxes.house import House

Make = Callable[..., House]


@pytest_twisted.async_yield_fixture
async def make(reactor: Any, tmp_path: Path) -> AsyncGenerator[Make, None]:
    """Give what builds a hub's sandboxes before a cluster, and closes them afterwards."""
    houses: list[House] = []

    def build(fake: Cluster, *, context: Any = None, **settings: Any) -> House:
        if not fake.masters:
            fake.add_master()
        fake.listen(reactor, context)
        houses.append(House(reactor, fake, tmp_path, **settings))
        return houses[-1].open()

    yield build
    for each in houses:
        await each.close()
