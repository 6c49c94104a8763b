"""From what a caller sent, as JSON, form or query string, to the shape an operation takes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import FieldInfo
from multipart import MultipartError, MultipartParser, MultipartPart, parse_options_header

from datahub.errors import InvalidRequest

__all__ = ["decode", "json_object"]

Shape = TypeVar("Shape", bound=msgspec.Struct)

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
FIELDS = 1000
# A part of a form that was sent as a file is a field all the same if it is text of at most so many bytes.
FILE = 64 * 1024
SHOWN = 60

# msgspec's words for types, in those of people who don't write Python.
WORDS = {
    "array": "a list",
    "bool": "true or false",
    "bytes": "text in base64",
    "float": "a number",
    "int": "an integer",
    "null": "null",
    "object": "an object",
    "str": "text",
}


def decode(shape: type[Shape], body: bytes, content_type: str | None, query: bytes) -> Shape:
    """The fields of a request as ``shape``: those of its body, and of its query string what the body does not name.

    A body that is a JSON object is taken as one whatever its ``content_type``. Values of forms and query strings are
    text, so they are converted to what the shape wants. Raises `InvalidRequest` naming the field, its value, and what
    would be right; its code is "request.missing" or "request.unknown" where that is what is wrong.
    """
    fields, is_form = _body(body, content_type or "")
    asked = _distinct(_urlencoded(query, "the query string"))
    document = _tidied(shape, {**asked, **fields})
    _refuse_nul(document)
    _refuse_unknown(shape, document)
    _refuse_missing(shape, document)
    try:
        return msgspec.convert(document, shape, strict=not (is_form or asked))
    except msgspec.ValidationError as error:
        raise _explained(shape, document, str(error)) from None


def _tidied(shape: type[msgspec.Struct], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields, as lenient as ``shape`` says that the system it replaces was.

    Its ``ANY_CASE`` names fields that may be written in capitals, its ``IGNORED`` those that mean nothing ("*": all it
    does not know).
    """
    any_case: Collection[str] = getattr(shape, "ANY_CASE", ())
    ignored: Collection[str] = getattr(shape, "IGNORED", ())
    if not any_case and not ignored:
        return document
    known = {field.encode_name for field in _fields(shape)}
    tidied = {name.lower() if name.lower() in any_case else name: value for name, value in document.items()}
    return {
        name: value for name, value in tidied.items() if name in known or (name not in ignored and "*" not in ignored)
    }


def _body(body: bytes, content_type: str) -> tuple[Mapping[str, Any], bool]:
    kind, options = parse_options_header(content_type)
    kind = kind.lower()
    if not body.strip():
        return {}, False
    # No form begins with a brace whose field anybody would know: it is JSON, if broken perhaps.
    if kind == "application/json" or kind.endswith("+json") or body.lstrip().startswith(b"{"):
        return json_object(body), False
    if kind == MULTIPART:
        return _distinct(_multipart(body, options.get("boundary", ""))), True
    if kind in (URLENCODED, ""):
        return _distinct(_urlencoded(body, "the form")), True
    raise InvalidRequest(
        f"the body is {_shown(kind)}; it must be JSON (application/json) or a form ({URLENCODED} or {MULTIPART})",
        field="content-type",
    )


def json_object(body: bytes) -> Mapping[str, Any]:
    """The JSON object that is ``body``, of a repeated name the last; raises `InvalidRequest` for anything else."""
    try:
        document = msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the JSON in the body is not UTF-8: {error.reason}") from None
    except RecursionError:
        raise InvalidRequest("the JSON in the body is nested too deep") from None
    except msgspec.DecodeError as error:
        text = str(error).replace("Input data was truncated", f"it ends too early (byte {len(body)})")
        raise InvalidRequest(f"the body can't be read as JSON: {text.removeprefix('JSON is malformed: ')}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"the body must be a JSON object such as {{}}, not {_shown(document)}")
    return document


def _urlencoded(text: bytes, where: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS)
    except UnicodeDecodeError:
        raise InvalidRequest(f"{where} must be UTF-8, percent-encoded") from None
    except ValueError:
        raise InvalidRequest(f"{where} has more than {FIELDS} fields") from None


def _multipart(body: bytes, boundary: str) -> list[tuple[str, str]]:
    if not boundary:
        raise InvalidRequest("the Content-Type of a multipart form must name its boundary", field="content-type")
    try:
        parts = MultipartParser(BytesIO(body), boundary, len(body), spool_limit=len(body), memory_limit=len(body))
        return [_part(part) for part in parts]
    except MultipartError as error:
        raise InvalidRequest(f"the multipart form can't be read: {error}") from None


def _part(part: MultipartPart) -> tuple[str, str]:
    if not part.name:
        raise InvalidRequest("a part of the form has no name; each must be a field of this request")
    if part.filename is not None and part.size > FILE:
        raise InvalidRequest(f"{part.name} is a file of {part.size} bytes; it must be a field of text", field=part.name)
    try:
        return part.name, part.raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{part.name} is not text in UTF-8, which it must be", field=part.name) from None


def _distinct(pairs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name in fields:
            given = f"{_shown(fields[name])} and {_shown(value)}"
            raise InvalidRequest(f"{_label(name)} is given twice, as {given}; once is right", field=name)
        fields[name] = value
    return fields


def _refuse_nul(document: Mapping[str, Any]) -> None:
    for name, value in document.items():
        if _has_nul(name) or _has_nul(value):
            raise InvalidRequest(f"{_label(name)} holds a NUL character, which no text here may", field=name)


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(each) for pair in value.items() for each in pair)
    return isinstance(value, list) and any(map(_has_nul, value))


@cache
def _fields(shape: type[msgspec.Struct]) -> tuple[FieldInfo, ...]:
    # Kept, since msgspec evaluates all annotations anew at each call, which costs more than the rest of a request.
    return msgspec.structs.fields(shape)


def _refuse_unknown(shape: type[msgspec.Struct], document: Mapping[str, Any]) -> None:
    if getattr(shape, "takes_more", False):
        return
    known = [field.encode_name for field in _fields(shape)]
    for name in document:
        if name not in known:
            text = f"{_label(name)} is not a field of this request; its fields are: {', '.join(known) or 'none'}"
            raise InvalidRequest(text, field=name, code="request.unknown")


def _refuse_missing(shape: type[msgspec.Struct], document: Mapping[str, Any]) -> None:
    fields = _fields(shape)
    missing = [field.encode_name for field in fields if field.required and field.encode_name not in document]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise InvalidRequest(f"{' and '.join(missing)} {verb} missing", field=missing[0], code="request.missing")


def _explained(shape: type[msgspec.Struct], document: Mapping[str, Any], complaint: str) -> InvalidRequest:
    text, _, path = complaint.partition(" - at `$")
    place = path.rstrip("`").removeprefix(".")
    field = re.split(r"[.\[]", place)[0]
    if field not in document:
        return InvalidRequest(f"{place or 'the body'}: {text}", field=field)
    choices = _choices(shape, field)
    if place == field and choices:
        right = f"must be one of: {', '.join(choices)}"
    elif text.startswith("Expected "):
        right = "must be " + _words(text.removeprefix("Expected ").partition(", got ")[0])
    else:
        right = f"can't be taken: {text.replace('`', '')}"
    where = "" if place == field else f" (at {place})"
    return InvalidRequest(f"{field} is {_shown(document[field])}{where}; it {right}", field=field)


def _words(types: str) -> str:
    def named(match: re.Match[str]) -> str:
        return " or ".join(WORDS.get(each, each) for each in match[1].split(" | "))

    return re.sub(r"`([^`]*)`", named, types)


def _choices(shape: type[msgspec.Struct], field: str) -> list[str]:
    (kind,) = [each.type for each in _fields(shape) if each.encode_name == field]
    return [str(choice) for choice in msgspec.json.schema(kind).get("enum", ())]


def _label(name: str) -> str:
    """A name as its caller wrote it, if that is readable."""
    return name if re.fullmatch(r"[\w.-]{1,60}", name) else _shown(name)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
