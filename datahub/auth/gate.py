"""The one place where a request's credentials become a caller."""

from __future__ import annotations

from collections.abc import Collection

from datahub.auth.identity import ACCEPTED, Caller
from datahub.auth.tokens import Tokens
from datahub.errors import NotAuthenticated

__all__ = ["Gate"]


class Gate:
    """Identifies callers by token."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def identify(self, authorization: str | None, address: str, anonymous: Collection[str]) -> Caller:
        """The caller of a request with this ``Authorization`` header (RFC 6750, or the bare token).

        Without the header: an anonymous caller with the scopes ``anonymous``. Credentials that are given decide:
        bad ones raise `NotAuthenticated` even where anonymous callers are welcome.
        """
        if authorization is None:
            return Caller(f"anonymous@{address}", "anonymous", frozenset(anonymous), address)
        section = self._tokens.find(_token(authorization))
        if section is None:
            raise NotAuthenticated(f"the token is not known here; {ACCEPTED}")
        return Caller(section.name, "token", frozenset(section.scopes), address)


def _token(authorization: str) -> str:
    match authorization.split():
        case [scheme, token] if scheme.lower() == "bearer":
            return token
        case [token] if token.lower() != "bearer":
            return token
        case [scheme, _, *_] if scheme.lower() != "bearer":
            raise NotAuthenticated(f"the scheme {scheme[:20]!r} is not accepted; {ACCEPTED}", code="auth.scheme")
    raise NotAuthenticated(f"the Authorization header holds no token; {ACCEPTED}")
