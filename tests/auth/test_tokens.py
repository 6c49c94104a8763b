"""Tokens: made, digested, found."""

from __future__ import annotations

from hashlib import sha256

from datahub.auth import Tokens, digest, new_token
from datahub.config import TokenSection


def test_new_tokens_differ_and_are_plain():
    """Tokens never repeat and hold nothing that a shell, a header or a URL would take apart."""
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 43 and token.replace("-", "").replace("_", "").isalnum() for token in tokens)


def test_the_digest_is_sha256_of_utf8():
    """What is kept of a token is the SHA-256 of its UTF-8."""
    assert digest("grün") == sha256("grün".encode()).hexdigest()


def test_a_token_is_found_by_its_digest_in_either_case():
    """A token finds its section; a digest itself is no token."""
    alice = TokenSection("alice", digest("secret").upper(), ("read",))
    tokens = Tokens([alice])
    assert tokens.find("secret") is alice
    assert tokens.find(digest("secret")) is None
    assert tokens.find("") is None
