"""Who is calling, and what may they do."""

from datahub.auth.gate import Gate
from datahub.auth.identity import Caller
from datahub.auth.tokens import Tokens, digest, new_token

__all__ = ["Caller", "Gate", "Tokens", "digest", "new_token"]
