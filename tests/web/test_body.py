"""What callers send, in all its forms."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
import pytest

from datahub.errors import InvalidRequest
from datahub.web.body import decode

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = 'multipart/form-data; boundary="XX"'


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    depth: int = 0


class Order(msgspec.Struct):
    product_id: str
    destination: str = msgspec.field(name="destination_path")
    priority: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    overwrite: bool = False
    order: Literal["new", "old"] = "new"
    inner: Inner | None = None
    names: list[str] = msgspec.field(default_factory=list)


class Easy(msgspec.Struct):
    wait: float = 1.5


def refused(body: bytes = b"", kind: str | None = None, query: bytes = b"", shape: type = Order) -> InvalidRequest:
    """The refusal of a request."""
    with pytest.raises(InvalidRequest) as raised:
        decode(shape, body, kind, query)
    return raised.value


def part(head: str, value: bytes) -> bytes:
    """One part of a multipart form."""
    return b"--XX\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + value + b"\r\n"


@pytest.mark.parametrize("kind", [JSON, "application/json; charset=utf-8", "Application/JSON", FORM, "text/x", None])
def test_a_json_object_is_taken_whatever_its_type(kind):
    """A body that is a JSON object is one, also as curl -d sends it."""
    order = decode(Order, b' {"product_id": "p", "destination_path": "file:///x", "priority": 5}', kind, b"")
    assert (order.product_id, order.destination, order.priority) == ("p", "file:///x", 5)


@pytest.mark.parametrize("kind", [FORM, None])
def test_an_urlencoded_form(kind):
    """Values of a form are converted to what the shape wants."""
    order = decode(Order, b"product_id=a%20b+c%C3%A4&destination_path=&priority=4&overwrite=True", kind, b"")
    assert (order.product_id, order.destination, order.priority, order.overwrite) == ("a b cä", "", 4, True)


def test_a_multipart_form():
    """So are those of a multipart form, where a small text file counts as a field."""
    body = (
        part('name="product_id"', "ä\r\nb".encode())
        + part('name="destination_path"; filename="d.txt"', b"file:///x")
        + part('name="priority"', b"2")
        + b"--XX--\r\n"
    )
    order = decode(Order, body, MULTIPART, b"")
    assert (order.product_id, order.destination, order.priority) == ("ä\r\nb", "file:///x", 2)


def test_a_query_string_alone_and_under_a_body():
    """A query string gives what the body does not name."""
    order = decode(Order, b"", None, b"product_id=q&destination_path=file:///q&priority=1")
    assert (order.product_id, order.priority) == ("q", 1)
    order = decode(Order, b"product_id=f", FORM, b"product_id=q&destination_path=d")
    assert (order.product_id, order.destination) == ("f", "d")
    order = decode(Order, b'{"product_id": "j"}', JSON, b"destination_path=d&overwrite=1")
    assert (order.product_id, order.overwrite) == ("j", True)


@pytest.mark.parametrize("body", [b"", b" \r\n"])
@pytest.mark.parametrize("kind", [None, JSON, FORM, MULTIPART])
def test_an_empty_body_is_fine_where_nothing_must_be_given(body, kind):
    """Nothing at all is a request for the defaults."""
    assert decode(Easy, body, kind, b"") == Easy()


def test_what_is_missing_is_named():
    """The first missing field is the error's field, the text names all."""
    error = refused()
    assert (error.field, error.code) == ("product_id", "request.missing")
    assert str(error) == "product_id and destination_path are missing"
    assert str(refused(b"product_id=p", FORM)) == "destination_path is missing"


def test_an_unknown_field_lists_the_known_ones():
    """A misspelt field is never ignored."""
    error = refused(b'{"product": "p"}')
    assert (error.field, error.code) == ("product", "request.unknown")
    assert str(error).endswith("its fields are: product_id, destination_path, priority, overwrite, order, inner, names")


GOOD = b'"product_id": "p", "destination_path": "d"'


@pytest.mark.parametrize(
    ("more", "field", "text"),
    [
        (b'"priority": "3"', "priority", "priority is '3'; it must be an integer"),
        (b'"priority": 9', "priority", "priority is 9; it must be an integer <= 5"),
        (b'"overwrite": 1', "overwrite", "overwrite is 1; it must be true or false"),
        (b'"order": "up"', "order", "order is 'up'; it must be one of: new, old"),
        (b'"inner": 3', "inner", "inner is 3; it must be an object or null"),
        (b'"names": ["a", 2]', "names", 'names is ["a",2] (at names[1]); it must be text'),
        (b'"inner": {"depth": "x"}', "inner", 'inner is {"depth":"x"} (at inner.depth); it must be an integer'),
        (
            b'"inner": {"deep": 1}',
            "inner",
            'inner is {"deep":1}; it can\'t be taken: Object contains unknown field deep',
        ),
        (b'"product_id": null', "product_id", "product_id is null; it must be text"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(more, field, text):
    """The error says the field, what it is, and what it must be."""
    error = refused(b"{" + GOOD + b", " + more + b"}", JSON)
    assert error.field == field
    assert str(error) == text


def test_a_wrong_value_of_a_form():
    """A form's number that is none is told the same way."""
    assert str(refused(b"product_id=p&destination_path=d&priority=high")) == "priority is 'high'; it must be an integer"


def test_long_values_are_shortened():
    """An error's text does not grow with what was sent."""
    assert len(str(refused(b"product_id=p&destination_path=d&priority=" + b"9x" * 5000))) < 120
    assert len(str(refused(b"p" * 5000 + b"=1"))) < 250


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"product_id": "p"', r"ends too early \(byte 18\)"),
        (b'{"product_id": nope}', r"invalid character \(byte 19\)"),
        (b'{"a": 1} x', r"trailing characters \(byte 10\)"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"[" * 100_000, "nested too deep"),
        (b"[1, 2]", "must be a JSON object such as {}, not"),
        (b"null", "not null"),
        (b'{"a": 1e999}', "out of range"),
    ],
)
def test_broken_json_names_the_position(body, text):
    """What can't be read as a JSON object is refused with the reason and where it is."""
    with pytest.raises(InvalidRequest, match=text):
        decode(Order, body, JSON, b"")


def test_json_that_was_sent_as_a_form_is_not_taken_for_one():
    """Half an object is broken JSON even if it says that it is a form."""
    assert "can't be read as JSON" in str(refused(b'{"product_id": ', FORM))


def test_a_body_of_another_type_is_refused():
    """What is neither JSON nor a form is not guessed at."""
    error = refused(b"product_id: p", "application/yaml")
    assert error.field == "content-type"
    assert "application/yaml" in str(error)
    assert "application/json" in str(error)


@pytest.mark.parametrize(
    ("body", "kind", "query"),
    [
        (b"product_id=a&product_id=b", FORM, b""),
        (b"", None, b"product_id=a&product_id=b"),
        (part('name="product_id"', b"a") + part('name="product_id"', b"b") + b"--XX--\r\n", MULTIPART, b""),
    ],
)
def test_a_field_given_twice_is_refused(body, kind, query):
    """Nobody has to guess which of two values counts."""
    error = refused(body, kind, query)
    assert error.field == "product_id"
    assert str(error) == "product_id is given twice, as 'a' and 'b'; once is right"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"product_id=%00", FORM),
        (b'{"product_id": "a\\u0000"}', JSON),
        (b'{"names": [{"a": ["\\u0000"]}]}', JSON),
        (b'{"inner": {"\\u0000": 1}}', JSON),
        (part('name="product_id"', b"a\0b") + b"--XX--\r\n", MULTIPART),
    ],
)
def test_nul_is_refused_wherever_it_hides(body, kind):
    """No text may hold a NUL, which databases and file systems refuse later and worse."""
    assert "NUL" in str(refused(body, kind))


@pytest.mark.parametrize(("body", "query"), [(b"product_id=%ff", b""), (b"product_id=\xff", b""), (b"", b"a=%ff")])
def test_forms_must_be_utf8(body, query):
    """Bytes that are no UTF-8 are refused, not replaced."""
    assert "must be UTF-8" in str(refused(body, FORM, query))


def test_too_many_fields():
    """A form of ten thousand fields is refused before it is taken apart."""
    assert "more than 1000 fields" in str(refused(b"&".join(b"a%d=1" % n for n in range(10_000)), FORM))


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b"--XX\r\nContent-Disp", MULTIPART, "can't be read"),
        (b"junk", MULTIPART, "can't be read"),
        (b"--XX--\r\n", "multipart/form-data", "must name its boundary"),
        (part('filename="x"', b"a") + b"--XX--\r\n", MULTIPART, "no name"),
        (part('name="product_id"; filename="x"', b"\xff\xfe") + b"--XX--\r\n", MULTIPART, "product_id is not text"),
        (part('name="product_id"; filename="x"', b"x" * 70_000) + b"--XX--\r\n", MULTIPART, "is a file of 70000 bytes"),
    ],
)
def test_broken_multipart_forms(body, kind, text):
    """What is wrong with a multipart form is said."""
    assert text in str(refused(body, kind))


class Lenient(msgspec.Struct):
    ANY_CASE: ClassVar = frozenset({"command"})
    IGNORED: ClassVar = frozenset({"status"})

    command: str
    Other: str = ""


class Careless(msgspec.Struct):
    IGNORED: ClassVar = frozenset({"*"})

    status: str


def test_a_shape_may_be_as_lenient_as_what_it_replaces():
    """Fields in any case, fields that mean nothing; all others are as strict as ever."""
    assert decode(Lenient, b'{"COMmand": "c", "status": [1]}', JSON, b"") == Lenient("c")
    assert refused(b'{"command": "c", "other": ""}', JSON, shape=Lenient).code == "request.unknown"
    assert decode(Careless, b'{"status": "s", "more": {}}', JSON, b"x=1") == Careless("s")
    assert refused(b"{}", JSON, shape=Careless).code == "request.missing"
