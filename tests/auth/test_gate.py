"""From an Authorization header to a caller."""

from __future__ import annotations

import pytest

from datahub.auth import Gate, Tokens, digest
from datahub.config import TokenSection
from datahub.errors import NotAuthenticated

GATE = Gate(Tokens([TokenSection("alice", digest("s3cret"), ("read", "jobs:write"))]))


@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret ", "s3cret", " s3cret"])
def test_a_token_with_and_without_its_scheme(header):
    """The scheme's case does not matter, and it may be left out."""
    caller = GATE.identify(header, "10.0.0.9", ())
    assert (caller.name, caller.kind, caller.address) == ("alice", "token", "10.0.0.9")
    assert caller.scopes == {"read", "jobs:write"}


def test_no_credentials_make_an_anonymous_caller():
    """Without credentials a caller has the listener's scopes and a name of his address."""
    caller = GATE.identify(None, "10.0.0.9", ("read",))
    assert (caller.name, caller.kind) == ("anonymous@10.0.0.9", "anonymous")
    assert caller.scopes == {"read"}


@pytest.mark.parametrize("header", ["Bearer wrong", "wrong", "Bearer", "", "  ", "Bearer s3cret more", "bearers3cret"])
def test_bad_credentials_are_refused_where_none_would_do(header):
    """Credentials that are given decide, even where anonymous callers are welcome."""
    with pytest.raises(NotAuthenticated, match="accepted here is a token"):
        GATE.identify(header, "10.0.0.9", ("read", "write"))


def test_other_schemes_are_named():
    """One who sends another kind of credentials is told which kind is taken; his secret is not repeated."""
    with pytest.raises(NotAuthenticated, match=r"'Basic' is not accepted.*Bearer TOKEN") as raised:
        GATE.identify("Basic czNjcmV0", "10.0.0.9", ())
    assert raised.value.code == "auth.scheme"
    assert "czNjcmV0" not in str(raised.value)
