"""What FTS says when a file could not be copied, and whether it is worth another try.

The texts are those of url-copy, which has no codes: a scope, an errno in brackets, and words that differ from version
to version. So a text is looked for by its parts, is always kept whole, and one that nobody knows is tried again.
"""

from __future__ import annotations

import errno
import re
from enum import StrEnum

__all__ = ["Verdict", "exists", "judge"]


class Verdict(StrEnum):
    """What is to be made of a reason."""

    NEVER = "never"
    AGAIN = "again"
    UNKNOWN = "unknown"


# Tried again whatever else is said.
_AGAIN = (
    "performance marker",
    "name or service not known",
    "connection timed out",
    "end-of-file was reached",
    "end of file occurred",
    "srm_internal_error",
    "was forcefully killed",
    "operation timeout",
    "proxy expired",
    "certificate has expired",
    "crl has expired",
    "checksum do not match",
    "checksum mismatch",
    "communication error",
    "connection refused",
    "connection reset",
)
_NEVER = (
    "550 file not found",
    "file exists",
    "exists and overwrite is not enabled",
    "destination file exists and is on tape",
    "no such file or directory",
    "srm_invalid_path",
    "srm authentication failed",
    "srm_duplication_error",
    "srm_authentication_failure",
    "permission denied",
    "the source file is not online",
    "can not determine address of local host",
    "digest too big for rsa key",
    "login incorrect",
)
_EXISTS = ("file exists", "exists and overwrite is not enabled", "destination file exists")
_EVERYWHERE = {errno.EPERM, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.E2BIG, errno.EPROTONOSUPPORT}
_NUMBERS = {
    "SOURCE": _EVERYWHERE | {errno.ENOENT, errno.ENOTDIR},
    "DESTINATION": _EVERYWHERE | {errno.EROFS, errno.EFAULT, errno.EEXIST},
    "TRANSFER": _EVERYWHERE - {errno.EISDIR, errno.E2BIG} | {errno.EEXIST, errno.EFBIG, errno.EROFS},
}
_SCOPED = re.compile(r"\s*([A-Z_]+) \[(\d+)\]")


def judge(reason: str) -> Verdict:
    """Whether what ended for ``reason`` may succeed another time."""
    said = reason.lower()
    if any(each in said for each in _AGAIN):
        return Verdict.AGAIN
    if any(each in said for each in _NEVER):
        return Verdict.NEVER
    found = _SCOPED.match(reason)
    if found is None or found[1] not in _NUMBERS:
        return Verdict.UNKNOWN
    return Verdict.NEVER if int(found[2]) in _NUMBERS[found[1]] else Verdict.AGAIN


def exists(reason: str) -> bool:
    """Whether something was in the way at the destination."""
    found = _SCOPED.match(reason)
    there = found is not None and found[1] == "DESTINATION" and int(found[2]) == errno.EEXIST
    return there or any(each in reason.lower() for each in _EXISTS)
