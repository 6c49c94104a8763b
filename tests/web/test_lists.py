"""What the parameters of a list become."""

from __future__ import annotations

from enum import StrEnum

import pytest

from datahub.errors import InvalidRequest
from datahub.kit.filters import Filter
from datahub.web.lists import ListQuery, read_filter, read_statuses


class Light(StrEnum):
    """Statuses, in either case."""

    RED = "RED"
    GREEN = "green"


def test_a_filter_is_read_from_a_query():
    """One record more is asked for than a page has; times are milliseconds, the cursor is what a list gave."""
    query = ListQuery(limit=10, status="green", since="2026-03-01T09:30:00Z", order="old", after="WzUsImFiYyJd")
    wanted = read_filter(Filter, query, "ann", Light)
    assert wanted == Filter(11, False, "ann", ("green",), 1_772_357_400_000, None, (5, "abc"))


def test_statuses_are_known_in_either_case():
    """Each is taken once, in the order given, as records have it; an unknown one is named with those there are."""
    assert read_statuses(" Green,red, GREEN,,", Light) == ("green", "RED")
    assert read_statuses("", Light) == ()
    with pytest.raises(InvalidRequest, match="status 'blue' is none of RED, green"):
        read_statuses("red,blue", Light)
