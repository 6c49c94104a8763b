"""file:// URLs and paths, there and back, with any bytes."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahub.files import path_of_url, url_of_path


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///srv/a", "/srv/a"),
        ("file://localhost/srv/a/", "/srv/a/"),
        ("FILE:/srv/a", "/srv/a"),
        ("file:///a%20b%2Fc%3F", "/a b/c?"),
        ("file:///%FF", "/\udcff"),
        ("file:///ü", "/ü"),
    ],
)
def test_paths(url: str, path: str) -> None:
    """Each form of RFC 8089 for this host's paths is understood."""
    assert path_of_url(url) == path


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "form"),
        ("/srv/a", "form"),
        ("http://x/srv", "form"),
        ("file:srv", "form"),
        ("file://", "no path"),
        ("file://elsewhere/srv", "elsewhere"),
        ("file://user@localhost/srv", "user@localhost"),
        ("file:///a?b", "%3F"),
        ("file:///a#b", "%23"),
        ("file:///a%zz", "%25"),
        ("file:///a%00b", "NUL"),
        ("file:///a\0b", "NUL"),
        ("file:///\ud800", "no path can hold"),
    ],
)
def test_what_is_no_path_here(url: str, reason: str) -> None:
    """What can't be a path of this host is refused with what would be right."""
    with pytest.raises(ValueError, match=reason):
        path_of_url(url)


@given(st.binary(min_size=1, max_size=50).filter(lambda raw: b"\0" not in raw))
def test_there_and_back(raw: bytes) -> None:
    """Any path survives, as text that any database and terminal takes."""
    path = "/" + os.fsdecode(raw)
    url = url_of_path(path)
    assert url.isascii()
    assert url.isprintable()
    assert path_of_url(url) == path
