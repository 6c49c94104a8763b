"""What is taken for a message, and what is said of anything else."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahub.errors import InvalidRequest
from datahub.messages.reading import message_in, texts_in

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50)


@pytest.mark.parametrize(
    "kind", [JSON, "application/json; charset=utf-8", "application/x+json", FORM, None, "", "APPLICATION/JSON"]
)
def test_json_is_taken_whatever_it_is_called(kind):
    """By curl it is called a form, by others nothing at all."""
    assert message_in(b' {"message": "foo"}', kind) == b"foo"


@pytest.mark.parametrize("kind", ["text/plain", "Text/Plain; charset=utf-8", "application/octet-stream"])
def test_bytes_are_taken_as_they_are(kind):
    """By these types the body is the message, even if it could be read as JSON."""
    assert message_in(b'{"message": "foo"}', kind) == b'{"message": "foo"}'
    assert message_in(b"\xff\0", kind) == b"\xff\0"
    assert message_in(b"", kind) == b""


@given(TEXTS, st.booleans())
def test_any_text_is_a_message(text, escaped):
    """Escaped or not, with NUL or without a character at all."""
    body = json.dumps({"message": text}, ensure_ascii=escaped).encode()
    assert message_in(body, JSON) == text.encode()


def test_further_keys_do_not_matter():
    """And of one that is repeated the last counts."""
    assert message_in(b'{"x": [1, null], "message": "a", "message": "b"}', JSON) == b"b"


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b"", JSON, 'the body is empty; it must be JSON, like {"message": "text"}'),
        (b" \n", None, 'the body is empty; it must be JSON, like {"message": "text"}'),
        (b"{", JSON, "the body can't be read as JSON: it ends too early (byte 1)"),
        (b"\xff", JSON, "the body can't be read as JSON: invalid character (byte 0)"),
        (b'{"message": "\xff"}', JSON, "the JSON in the body is not UTF-8: invalid start byte"),
        (b'{"message": "\\ud800"}', JSON, "the body can't be read as JSON: "),
        (b"message=foo", FORM, 'the body is a form (application/x-www-form-urlencoded); it must be JSON, like {"m'),
        (
            b"--x\r\n\r\n--x--",
            "multipart/form-data; boundary=x",
            "the body is a form (multipart/form-data); it must be",
        ),
        (b"message", "text/html", "the body can't be read as JSON: invalid character (byte 0)"),
        (b"null", JSON, "the body must be a JSON object such as {}, not null"),
        (b"5", JSON, "the body must be a JSON object such as {}, not 5"),
        (b'["message"]', JSON, 'the body must be a JSON object such as {}, not ["message"]'),
        (b'"message"', JSON, "the body must be a JSON object such as {}, not 'message'"),
        (b"[" * 5000, JSON, "the JSON in the body is nested too deep"),
        (b"{}", JSON, "I was expecting to receive a POST param called 'message'."),
        (b'{"msg": "foo"}', JSON, "I was expecting to receive a POST param called 'message'."),
        (b'{"message": null}', JSON, "message is null; it must be text"),
        (b'{"message": 5}', JSON, "message is 5; it must be text"),
        (b'{"message": 1e999}', JSON, ""),
        (b'{"message": ["foo"]}', JSON, 'message is ["foo"]; it must be text'),
        (b'{"message": {"a": "' + b"x" * 100 + b'"}}', JSON, 'message is {"a":"xxxxx'),
    ],
)
def test_what_is_no_message_is_named(body, kind, text):
    """By what it is, and what would be right."""
    with pytest.raises(InvalidRequest) as refused:
        message_in(body, kind)
    assert str(refused.value).startswith(text)
    assert len(str(refused.value)) < 200


@given(st.binary(max_size=60) | TEXTS.map(str.encode), st.none() | st.text(max_size=30) | st.sampled_from([JSON, FORM]))
def test_nothing_else_happens(body, kind):
    """A body is a message, or wrong: there is no third."""
    with suppress(InvalidRequest):
        assert isinstance(message_in(body, kind), bytes)


def test_a_list_of_texts():
    """As it stands there."""
    assert texts_in(b'{"messages": ["a", "", "\\u00e9", "a"]}', JSON, "messages") == ["a", "", "é", "a"]
    assert texts_in(b'{"messages": []}', JSON, "messages") == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{}", 'messages is missing; it must be a list, like {"messages": ["text"]}'),
        (b'{"messages": "a"}', 'messages is "a"; it must be a list, like {"messages": ["text"]}'),
        (b'{"messages": ["a", 5]}', "messages[1] is 5; it must be text"),
        (b"[]", "the body must be a JSON object such as {}, not []"),
    ],
)
def test_what_is_no_list_of_texts_is_named(body, text):
    """By its place in the list, too."""
    with pytest.raises(InvalidRequest) as refused:
        texts_in(body, JSON, "messages")
    assert str(refused.value) == text
