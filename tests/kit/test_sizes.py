"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahub.kit.sizes import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("17 B", 17),
        ("2 GB", 2_000_000_000),
        ("2GB", 2_000_000_000),
        ("16 KiB", 16_384),
        (" 1.5 kB ", 1500),
        ("0.5 TiB", 2**39),
        ("9007199254740993 B", 9007199254740993),
    ],
)
def test_size_is_read(text: str, size: int) -> None:
    """Powers of 1000 and of 1024, with or without a blank, exact beyond what a float holds."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100 ms", 0.1), ("30 s", 30.0), ("30s", 30.0), ("5 min", 300.0), ("2 h", 7200.0), ("400 d", 34_560_000.0)],
)
def test_duration_is_read(text: str, seconds: float) -> None:
    """All units of time."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "GB", "-1 GB", "1 gb", "1 KB", "1,5 GB", "1 GB 2", "1e9", "٣ GB", "nan B"])
def test_wrong_size_says_what_would_be_right(text: str) -> None:
    """What is no size is refused with the text and an example."""
    with pytest.raises(ValueError, match="must be a size such as") as caught:
        parse_size(text)
    assert f'"{text}"' in str(caught.value)


@pytest.mark.parametrize("text", ["", "30", "s", "-1 s", "5 m", "5 minutes", "1 H", "inf s"])
def test_wrong_duration_says_what_would_be_right(text: str) -> None:
    """What is no duration is refused; a number without its unit is none."""
    with pytest.raises(ValueError, match="must be a duration such as"):
        parse_duration(text)


def test_missing_unit_is_named_as_the_fault() -> None:
    """Who forgets the unit is told so, and which there are."""
    with pytest.raises(ValueError, match=r"the unit is missing \(ms, s, min, h, d\)"):
        parse_duration("30")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (16_384, "16 KiB"),
        (2_000_000_000, "2 GB"),
        (2**30, "1 GiB"),
        (123_456_789, "123.5 MB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_size_is_written(size: int, text: str) -> None:
    """The short exact text where there is one, else one decimal."""
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.1, "100 ms"), (30, "30 s"), (90, "90 s"), (3600, "1 h"), (86_400, "1 d"), (12_345.678, "3.4 h")],
)
def test_duration_is_written(seconds: float, text: str) -> None:
    """The short exact text where there is one, else one decimal."""
    assert format_duration(seconds) == text


@given(st.integers(0, 2**60))
def test_written_size_is_read_back_closely(size: int) -> None:
    """What is written for people can be read again, to within its one decimal."""
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06)
