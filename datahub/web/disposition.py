"""What a caller's program is told to call a file that it saves (RFC 6266)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

__all__ = ["disposition"]

TOKEN: Final = re.compile(r"[A-Za-z0-9!#$&+.^_`|~-]+")


def disposition(name: str) -> str:
    """The header Content-Disposition of a download called ``name``: without quotes, if the name allows that."""
    if TOKEN.fullmatch(name):
        return f"attachment; filename={name}"
    plain = re.sub(r'[^ -~]|["\\%]', "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
