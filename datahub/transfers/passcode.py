"""The code by which a stager's report is recognised: computed, never stored, so there is nothing to forget or to steal.

It is an HMAC of job, product and staging attempt. Its secret is made once and lies in the database, so that a report
may come to any hub, and a request that is sent again has the same code.
"""

from __future__ import annotations

import hmac
from secrets import token_hex

from sqlalchemy import Connection, select

from datahub.store.dialect import insert_if_absent
from datahub.store.settings import setting

__all__ = ["LENGTH", "fits", "make"]

LENGTH = 32
"""That of the prototype's codes, whose stagers may have room for no more."""

SECRET = "transfers.passcode"  # noqa: S105 - the name under which it lies


def make(connection: Connection, job: str, product: str, attempt: str) -> str:
    """The code of a staging attempt."""
    secret = _secret(connection)
    if secret is None:
        insert_if_absent(connection, setting, {"name": SECRET, "value": token_hex(32)})
        secret = _secret(connection) or ""
    return _code(secret, job, product, attempt)


def fits(connection: Connection, code: str, job: str, product: str, attempt: str) -> bool:
    """Whether ``code`` is that of the attempt; how long that takes tells nothing of how much is right."""
    secret = _secret(connection)
    if secret is None:
        return False
    return hmac.compare_digest(code.encode(), _code(secret, job, product, attempt).encode())


def _secret(connection: Connection) -> str | None:
    found: str | None = connection.execute(select(setting.c.value).where(setting.c.name == SECRET)).scalar()
    return found


def _code(secret: str, *parts: str) -> str:
    # Each part with its length, so that no two lists of parts make one message.
    message = "".join(f"{len(part)}:{part}" for part in parts)
    return hmac.new(bytes.fromhex(secret), message.encode(), "sha256").hexdigest()[:LENGTH]
