"""From a message to the answer that gives it: as JSON or as its bytes, whole, in part, or not again."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache

import msgspec
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from datahub.errors import NotAcceptable
from datahub.messages.model import Message
from datahub.web.answer import Answer
from datahub.web.ranges import Unsatisfiable, matches, span

__all__ = ["Given", "given"]

JSON, TEXT, BYTES = "application/json", "text/plain", "application/octet-stream"
FOR_EVER = "public, max-age=31536000, immutable"
# Whatever somebody stored here, no browser is to run it in the name of this host.
HARMLESS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}

Header = Callable[[str], str | None]


class Given(msgspec.Struct, frozen=True):
    """A message as JSON."""

    message: str


def given(message: Message, method: str, header: Header) -> Answer:
    """The answer to a GET or HEAD with these headers; raises `NotAcceptable` for bytes that are no text as JSON."""
    tag = f'"{message.digest}"'
    kept = {"ETag": tag, "Cache-Control": FOR_EVER, "Vary": "Accept"}
    if matches(header("if-none-match"), tag):
        return Answer(304, None, kept)
    kind = chosen(header("accept"))
    if kind == JSON:
        return _as_json(message, kept)
    headers = {**kept, **HARMLESS, "Repr-Digest": f"sha-256={message.sha256}", "Accept-Ranges": "bytes"}
    if kind == BYTES:
        headers["Content-Disposition"] = "attachment"
    whole = Answer(200, message.content, headers, _content_type(kind, message))
    if_range = header("if-range")
    if method != "GET" or (if_range is not None and if_range.strip() != tag):
        return whole
    return _part(whole, message.content, header("range"))


@lru_cache(maxsize=256)
def chosen(accept: str | None) -> str:
    """The form that an Accept header prefers; JSON if it has no preference, or wants something else."""
    accepted = parse_accept_header(accept, MIMEAccept)
    # Not those that match by a wildcard only: a browser's "*/*" is no wish for a download.
    return accepted.best_match([JSON, TEXT, BYTES], JSON) or JSON


def _as_json(message: Message, headers: dict[str, str]) -> Answer:
    try:
        body = msgspec.json.encode(Given(message.text)) + b"\n"
    except UnicodeDecodeError:
        raise NotAcceptable(
            f"Message {message.digest} is not text, so it can't be given as JSON; ask for its bytes: Accept: {BYTES}"
        ) from None
    # The digest of what is sent, which is not that of the message.
    digest = b64encode(hashlib.sha256(body).digest()).decode("ascii")
    return Answer(200, body, {**headers, "Repr-Digest": f"sha-256=:{digest}:"})


def _content_type(kind: str, message: Message) -> str:
    if kind == BYTES:
        return BYTES
    try:
        message.text  # noqa: B018 - asked for whether it is text
    except UnicodeDecodeError:
        return TEXT
    return f"{TEXT}; charset=utf-8"


def _part(whole: Answer, content: bytes, wanted: str | None) -> Answer:
    try:
        part = span(wanted, len(content))
    except Unsatisfiable:
        text = f"the message has {len(content)} bytes; the range {wanted!r} lies behind them"
        headers = {
            "Content-Range": f"bytes */{len(content)}",
            "Cache-Control": "no-store",
            "X-Datahub-Error": "request.range",
        }
        return Answer(416, {"err_msg": text}, headers)
    if part is None:
        return whole
    headers = {**whole.headers, "Content-Range": part.content_range}
    return Answer(206, content[part.first : part.end], headers, whole.content_type)
