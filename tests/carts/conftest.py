"""What the tests of carts share."""

from __future__ import annotations

import pytest

from tests.carts.yard import Yard


@pytest.fixture
def yard(tmp_path):
    """Carts before an archive of files."""
    yard = Yard(tmp_path)
    yield yard
    yard.end()
