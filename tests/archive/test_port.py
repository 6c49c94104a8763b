"""Product ids, before any archive is asked."""

from __future__ import annotations

import pytest

from datahub.archive import check_product_id
from datahub.errors import InvalidRequest


@pytest.mark.parametrize("product_id", ["005", "2026/005", "...", "a b", "new\nline", "\udcff", "ü", "-", "x" * 300])
def test_ids_that_may_be(product_id: str) -> None:
    """Any relative path without detours may be a product."""
    check_product_id(product_id)


@pytest.mark.parametrize(
    "product_id",
    ["", ".", "..", "/etc/passwd", "a/../b", "../a", "a/..", "./a", "a/.", "a//b", "a/", "/", "a\0b", "\ud800"],
)
def test_ids_that_can_never_be(product_id: str) -> None:
    """What could lead out of an archive, or name nothing, is refused: field, value and what would be right."""
    with pytest.raises(InvalidRequest) as caught:
        check_product_id(product_id)
    assert caught.value.field == "product_id"
    assert repr(product_id) in str(caught.value)
    assert "2026/005" in str(caught.value)
