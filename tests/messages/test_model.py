"""What a message is called."""

from __future__ import annotations

import pytest

from datahub.messages.model import Message, digest_of, parse_digest

FOO = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"


def test_digest_is_the_sha256_of_the_bytes() -> None:
    """In lower-case hexadecimal digits."""
    assert digest_of(b"foo") == FOO
    assert digest_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("given", [FOO, FOO.upper(), FOO.title()])
def test_a_digest_is_read_in_any_case(given: str) -> None:
    """And is lower case from then on."""
    assert parse_digest(given) == FOO


@pytest.mark.parametrize(
    "given", ["", FOO[:-1], FOO + "0", FOO[:-1] + "g", FOO[:-1] + "\N{ARABIC-INDIC DIGIT ONE}", FOO + "\n"]
)
def test_what_is_no_digest(given: str) -> None:
    """Only 64 hexadecimal digits are one."""
    assert parse_digest(given) is None


def test_digest_as_a_structured_field() -> None:
    """Base64 between colons, as Repr-Digest has it (RFC 9530's own example)."""
    message = Message(digest_of(b'{"hello": "world"}\n'), b'{"hello": "world"}\n')
    assert message.sha256 == ":RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
