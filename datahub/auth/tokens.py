"""Static bearer tokens: made here, kept as digests, found by digest."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from secrets import token_urlsafe

from datahub.config import TokenSection

__all__ = ["Tokens", "digest", "new_token"]


def new_token() -> str:
    """A fresh token of 256 random bits, safe in URLs and shells."""
    return token_urlsafe(32)


def digest(token: str) -> str:
    """The SHA-256 of the token's UTF-8, in hexadecimal: what a configuration file holds."""
    return sha256(token.encode()).hexdigest()


class Tokens:
    """The tokens of the configuration."""

    def __init__(self, sections: Iterable[TokenSection]) -> None:
        self._by_digest = {section.digest.lower(): section for section in sections}

    def find(self, token: str) -> TokenSection | None:
        """The section this token belongs to, or None."""
        # Compared are digests: how long a miss takes tells nothing of any token.
        return self._by_digest.get(digest(token))
