"""Ranges and conditions, as RFC 9110 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahub.web.ranges import Span, Unsatisfiable, matches, span


@pytest.mark.parametrize(
    ("wanted", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=2-4", 2, 5),
        ("bytes=2-", 2, 10),
        ("bytes=2-99", 2, 10),
        ("bytes=-3", 7, 10),
        ("bytes=-99", 0, 10),
        ("Bytes = 2 - 4", 2, 5),
    ],
)
def test_one_range(wanted, first, end):
    """It is cut to what is there."""
    assert span(wanted, 10) == Span(first, end, 10)


@pytest.mark.parametrize(
    "wanted", [None, "", "bytes", "bytes=", "bytes=-", "bytes=4-2", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4"]
)
def test_no_range(wanted):
    """What is none, or more than one, is not answered in part."""
    assert span(wanted, 10) is None


@pytest.mark.parametrize(
    ("wanted", "size"), [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-1", 0)]
)
def test_a_range_behind_the_end(wanted, size):
    """It can't be satisfied."""
    with pytest.raises(Unsatisfiable):
        span(wanted, size)


@given(st.text(max_size=30) | st.from_regex(r"bytes=[0-9]{0,3}-[0-9]{0,3}", fullmatch=True), st.integers(0, 200))
def test_a_range_is_always_inside(wanted, size):
    """Whatever was asked for."""
    try:
        found = span(wanted, size)
    except Unsatisfiable:
        return
    assert found is None or 0 <= found.first < found.end <= size


def test_content_range():
    """First, last and size."""
    assert Span(2, 5, 10).content_range == "bytes 2-4/10"


@pytest.mark.parametrize("condition", ['"abc"', '"x", "abc"', 'W/"abc"', "*", '"x",W/"abc" '])
def test_a_condition_that_matches(condition):
    """A weak tag is as good as a strong one here."""
    assert matches(condition, '"abc"')


@pytest.mark.parametrize("condition", [None, "", "abc", '"ab"', '"x", "y"'])
def test_a_condition_that_does_not(condition):
    """Another tag, or none."""
    assert not matches(condition, '"abc"')
