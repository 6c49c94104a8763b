"""Submissions, checksums and states: pure values."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahub.errors import InvalidRequest
from datahub.transfers.model import ALGORITHMS, Status, Submission, parse_checksum
from datahub.transfers.movers import Checksum


def test_three_states_are_final():
    """A transfer always goes on from the others."""
    assert {each for each in Status if each.final} == {Status.CANCELLED, Status.ERROR, Status.SUCCESS}


@pytest.mark.parametrize(
    ("text", "checksum"),
    [
        (None, None),
        ("ADLER32:0a1B2c3d", Checksum("adler32", "0a1b2c3d")),
        ("md5:" + "F" * 32, Checksum("md5", "f" * 32)),
        ("SHA-256:" + "0" * 64, Checksum("sha256", "0" * 64)),
        ("sha256:" + "9" * 64, Checksum("sha256", "9" * 64)),
    ],
)
def test_checksums_as_fts_writes_them(text, checksum):
    """The algorithm in any case, the digits in any case."""
    assert parse_checksum(text) == checksum


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ADLER32",
        "ADLER32:",
        "ADLER32:0a1b2c3",
        "ADLER32:0a1b2c3d4",
        "ADLER32:0a1b2c3g",
        "ADLER32: a1b2c3d",
        "ADLER32:" + "\u0660" * 8,
        "CRC32:0a1b2c3d",
        "0a1b2c3d",
        ":0a1b2c3d",
        "sha256:" + "0" * 63,
    ],
)
def test_what_is_no_checksum_is_explained(text):
    """The text shows the value, and all that would be right."""
    with pytest.raises(InvalidRequest) as refused:
        parse_checksum(text)
    assert refused.value.field == "checksum"
    assert str(refused.value).startswith(f"checksum {text!r} is not one of")
    assert all(name in str(refused.value) for name in ALGORITHMS)


@given(st.text(alphabet="ADLER32:md5sha-0f \0\U0001d518") | st.text().map(lambda text: text * 50))
def test_any_text_is_refused(text):
    """Chance makes no checksum; nothing else breaks, and a long text is not repeated whole."""
    with pytest.raises(InvalidRequest) as refused:
        parse_checksum(text)
    assert len(str(refused.value)) < 1500


def test_a_submission_knows_its_fields():
    """Others are refused, so that a slip is not taken for a default."""
    with pytest.raises(msgspec.ValidationError, match="overwite"):
        msgspec.convert({"product_id": "005", "overwite": True}, Submission)
