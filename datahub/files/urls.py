"""Paths of this host as file:// URLs (RFC 8089), with names of any bytes."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

__all__ = ["path_of_url", "url_of_path"]

_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")


def path_of_url(url: str) -> str:
    """Give the absolute path that a ``file://`` URL means; raises `ValueError` that completes "the URL …"."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "file" or not rest.startswith("/"):
        raise ValueError("is not a URL of the form file:///folder")
    host, path = _split(rest)
    if host.lower() not in ("", "localhost"):
        raise ValueError(f"names the host {host!r}: only this host's own paths are possible, file:///folder")
    for sign, code in (("?", "%3F"), ("#", "%23")):
        if sign in path:
            raise ValueError(f"has a {sign!r}: in a name it is written {code}, and nothing may follow the path")
    if _LONE_PERCENT.search(path):
        raise ValueError("has a '%' without two hexadecimal digits: in a name it is written %25")
    return _decoded(path)


def _split(rest: str) -> tuple[str, str]:
    if not rest.startswith("//"):
        return "", rest
    host, slash, path = rest[2:].partition("/")
    return host, slash + path


def _decoded(path: str) -> str:
    try:
        raw = unquote_to_bytes(os.fsencode(path))
    except UnicodeEncodeError:
        raise ValueError("has a character that no path can hold") from None
    if b"\0" in raw:
        raise ValueError("has a NUL, which no path can hold")
    if not raw.startswith(b"/"):
        raise ValueError("has no path: it has the form file:///folder")
    return os.fsdecode(raw)


def url_of_path(path: str) -> str:
    """Give the ``file://`` URL of an absolute path, its odd bytes percent-encoded."""
    return "file://" + quote(os.fsencode(path), safe="/:@!$&'()*+,;=~")
