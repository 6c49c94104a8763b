"""From the body of a request to the messages in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from datahub.errors import InvalidRequest
from datahub.web.body import json_object

__all__ = ["ITSELF", "message_in", "texts_in"]

ITSELF = ("text/plain", "application/octet-stream")
"""Of these types a body is the message itself."""

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
EXAMPLE = '{"message": "text"}'
NO_MESSAGE = "I was expecting to receive a POST param called 'message'."
SHOWN = 60


def message_in(body: bytes, content_type: str | None) -> bytes:
    """The content of the one message in ``body``; raises `InvalidRequest` naming what is wrong."""
    if _kind(content_type) in ITSELF:
        return body
    document = _document(body, content_type, EXAMPLE)
    if "message" not in document:
        raise InvalidRequest(NO_MESSAGE, field="message", code="request.missing")
    return _encoded(document["message"], "message")


def texts_in(body: bytes, content_type: str | None, name: str) -> list[str]:
    """The list of texts that is called ``name`` in ``body``; raises `InvalidRequest` naming what is wrong."""
    example = f'{{"{name}": ["text"]}}'
    document = _document(body, content_type, example)
    if name not in document:
        raise InvalidRequest(
            f"{name} is missing; it must be a list, like {example}", field=name, code="request.missing"
        )
    texts = document[name]
    if not isinstance(texts, list):
        raise InvalidRequest(f"{name} is {_shown(texts)}; it must be a list, like {example}", field=name)
    for index, text in enumerate(texts):
        _encoded(text, f"{name}[{index}]")
    return texts


def _kind(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def _document(body: bytes, content_type: str | None, example: str) -> Mapping[str, Any]:
    if not body.strip():
        raise InvalidRequest(f"the body is empty; it must be JSON, like {example}")
    kind = _kind(content_type)
    # curl sends all it is given as a form, unless told otherwise: what is an object is taken for one.
    if kind in FORMS and not body.lstrip().startswith(b"{"):
        raise InvalidRequest(f"the body is a form ({kind}); it must be JSON, like {example}", field="content-type")
    return json_object(body)


def _encoded(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidRequest(f"{where} is {_shown(text)}; it must be text", field=where)
    return text.encode("utf-8")


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
