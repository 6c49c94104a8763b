"""Scopes: what grants what."""

from __future__ import annotations

import pytest

from datahub.auth import Caller
from datahub.errors import NotAuthenticated, NotPermitted


def caller(*scopes: str, kind: str = "token") -> Caller:
    """A caller called alice."""
    return Caller("alice", kind, frozenset(scopes), "127.0.0.1")  # type: ignore[arg-type]  # of the two kinds


@pytest.mark.parametrize("scope", ["transfers:write", "write", "admin", "transfers:admin"])
def test_what_grants_a_scope(scope):
    """A scope is granted by itself, by its verb alone, by admin, and by the admin of its area."""
    assert caller(scope).may("transfers:write")


@pytest.mark.parametrize("scope", ["read", "transfers:read", "carts:write", "carts:admin", "transfers", "", ":write"])
def test_what_grants_nothing(scope):
    """Other verbs, other areas and half names grant nothing."""
    assert not caller(scope).may("transfers:write")


def test_an_area_s_scope_does_not_grant_the_verb_alone():
    """Who may write transfers may not write everything, nor is he an admin."""
    assert not caller("transfers:write").may("write")
    assert not caller("transfers:admin").may("admin")
    assert caller("admin").may("write")


def test_require_names_the_scope_that_lacks():
    """A known caller is told which scope lacks and which he has."""
    caller("read").require("transfers:read")
    with pytest.raises(NotPermitted, match=r"'transfers:write'.*'alice' are: read"):
        caller("read").require("transfers:write")


def test_an_anonymous_caller_is_asked_for_credentials():
    """One who gave no credentials is told that they would help, and which are taken."""
    with pytest.raises(NotAuthenticated, match="Authorization: Bearer TOKEN"):
        caller(kind="anonymous").require("transfers:write")
