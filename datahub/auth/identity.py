"""The caller: a name, where he comes from, and the scopes he was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from datahub.errors import NotAuthenticated, NotPermitted

__all__ = ["ACCEPTED", "Caller"]

ACCEPTED = "accepted here is a token, as 'Authorization: Bearer TOKEN' or 'Authorization: TOKEN'"


@dataclass(frozen=True, slots=True)
class Caller:
    """One who has been identified; ``address`` is a host address, or "unix" for a local socket, ``request`` its id."""

    name: str
    kind: Literal["token", "anonymous"]
    scopes: frozenset[str]
    address: str
    request: str = ""

    def may(self, scope: str) -> bool:
        """Whether ``scope`` is granted: itself, by its verb alone, or by an `admin` over it."""
        area, _, verb = scope.rpartition(":")
        granting = {scope, verb, "admin"} | ({f"{area}:admin"} if area else set())
        return not granting.isdisjoint(self.scopes)

    def require(self, scope: str) -> None:
        """Pass only who has ``scope``.

        Raises `NotPermitted` naming the scope; `NotAuthenticated` for a caller who gave no credentials,
        since credentials might help him.
        """
        if self.may(scope):
            return
        if self.kind == "anonymous":
            raise NotAuthenticated(f"this needs the scope {scope!r}, so credentials are required; {ACCEPTED}")
        held = ", ".join(sorted(self.scopes)) or "none"
        raise NotPermitted(f"this needs the scope {scope!r}; the scopes of {self.name!r} are: {held}")
