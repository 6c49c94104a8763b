"""What the tests of jobs share."""

from __future__ import annotations

import pytest

from datahub import hub as hub_module


@pytest.fixture(autouse=True)
def own_timers(monkeypatch):
    """Leave the reactor's time alone: the tests' own timers run on it, too."""
    monkeypatch.setattr(hub_module, "make_steady", lambda _: None)
