"""Destinations on other hosts: which URLs can be one, and where a product of a given name is put."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

from datahub.errors import FinalFault, InvalidRequest

__all__ = ["check_folder", "check_name", "final_url", "folder_url", "place_of", "prefix_of", "quoted"]

PREFIX = ".datahub-"
"""How the names of files under way begin."""

SHOWN_PREFIX = "datahub-under-way-"
"""The same at WebDAV servers, of which some list no names that begin with a dot: they could not be found again."""

WEB = ("davs", "https")
CUTTING = ("root", *WEB)
"""Where the server may be XRootD, which takes a '?' in a name for its end, however it is written."""

_PORTS = {"gsiftp": 2811, "davs": 443, "https": 443, "root": 1094}
_WORDS = {"gsiftp": "a GridFTP server"}
_SAFE = "/:@!$&'()*+,;=~"
_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_USER = re.compile("[A-Za-z0-9._-]+")


def check_folder(destination: str) -> None:
    """Raise `InvalidRequest` (field ``destination_path``) unless it is the URL of a folder on another host.

    A user before the host is for the server; a password would lie in records and logs, and is refused.
    """
    trouble = _trouble(destination)
    if trouble:
        scheme = destination.partition(":")[0]
        raise InvalidRequest(
            f"destination_path must be a URL specifying {_WORDS.get(scheme, f'a server of {scheme}://')}: "
            f"{_shown(destination)} {trouble}; give one like {scheme}://host.example.org/folder",
            field="destination_path",
        )


def _shown(destination: str) -> str:
    """A URL as an answer may repeat it."""
    return repr(re.sub("//[^/@]*@", "//***@", destination)[:200])


def _trouble(destination: str) -> str:
    try:
        parts = urlsplit(destination)
        _ = parts.port
    except ValueError:
        return "is no URL"
    if parts.password is not None:
        return "has a password in it, which would show in records and logs"
    if not parts.hostname:
        return "names no host"
    if parts.username is not None and not _USER.fullmatch(parts.username):
        return "has a user that no server can have"
    if "?" in destination or "#" in destination:
        return "has a '?' or '#', which in a name are written %3F and %23"
    if not parts.path.startswith("/"):
        return "has no path"
    return _path_trouble(parts.path, parts.scheme)


def _path_trouble(path: str, scheme: str) -> str:
    if _LONE_PERCENT.search(path):
        return "has a '%' without two hexadecimal digits: in a name it is written %25"
    try:
        names = unquote_to_bytes(path).decode("utf-8").split("/")
    except (UnicodeDecodeError, UnicodeEncodeError):
        return "has a name that is not UTF-8"
    if not all(each.isprintable() for each in names):
        return "has a character that can't be in a name there"
    if scheme in CUTTING and any("?" in each for each in names):
        return "has a '?' in a name, where XRootD servers cut it off"
    if "." in names or ".." in names:
        return "has a '.' or '..' component"
    if any(each.startswith((PREFIX, SHOWN_PREFIX)) for each in names):
        return f"has a component that begins with {PREFIX} or {SHOWN_PREFIX}, as files under way do"
    return ""


def check_name(name: str, destination: str) -> None:
    """Raise `FinalFault` unless a file or folder at ``destination`` can have this name."""
    if not name.isprintable():  # nor are bytes that are not UTF-8
        raise FinalFault(f"the name {name!r} can't be that of a file on another host: rename the product")
    if "?" in name and urlsplit(destination).scheme in CUTTING:
        raise FinalFault(f"the product's name {name!r} has a '?', where XRootD servers cut it off: rename it")
    if name.startswith((PREFIX, SHOWN_PREFIX)):
        raise FinalFault(f"the product's name {name!r} begins as those of files under way do: rename it")


def prefix_of(destination: str) -> str:
    """How the names of files under way begin at ``destination``."""
    return SHOWN_PREFIX if urlsplit(destination).scheme in WEB else PREFIX


def quoted(path: str) -> str:
    """A path as part of a URL."""
    return quote(path, safe=_SAFE)


def folder_url(destination: str) -> str:
    """The destination without a slash at its end, each name in it written in one way."""
    parts = urlsplit(destination)
    path = re.sub("/+", "/", unquote_to_bytes(parts.path).decode("utf-8")).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{quoted(path)}"


def final_url(destination: str, name: str) -> str:
    """Where a product called ``name`` lies in the end."""
    return f"{folder_url(destination)}/{quoted(name)}"


def place_of(destination: str, name: str) -> str:
    """The same for every way of writing that URL: whoever the user is, and however the host is spelled."""
    parts = urlsplit(final_url(destination, name))
    port = parts.port or _PORTS.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}{parts.path}"
