"""What a message is: its bytes, and the SHA-256 of them that is its name."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass

__all__ = ["Message", "digest_of", "parse_digest"]

DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Message:
    """A message's ``content``, and its ``digest`` in lower-case hexadecimal digits."""

    digest: str
    content: bytes

    @property
    def text(self) -> str:
        """The content as text; raises `UnicodeDecodeError` when it is none."""
        return self.content.decode("utf-8")

    @property
    def sha256(self) -> str:
        """The digest as a structured field writes bytes (RFC 9651): base64 between colons."""
        return f":{b64encode(bytes.fromhex(self.digest)).decode('ascii')}:"


def digest_of(content: bytes) -> str:
    """The name of a message with this content."""
    return hashlib.sha256(content).hexdigest()


def parse_digest(given: str) -> str | None:
    """The digest that a caller wrote, in lower case; None for what can't be one."""
    lower = given.lower()
    return lower if DIGEST.fullmatch(lower) else None
