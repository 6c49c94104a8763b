"""What FTS says when a file could not be copied, and whether it is worth another try.

The texts are those of url-copy, which has no codes: a scope, an errno in brackets, and words that differ from version
to version. So a text is looked for by its parts, is always kept whole, and one that nobody knows is tried again.

The verdicts are those by which FTS itself tries again (url-copy's heuristics, 3.14), but for what it can't mend, and
others can while the hub waits, for hours:

- a proxy, certificate or list of revocations that has expired: the hub renews its proxies, operators the others;
- a full disk (ENOSPC, SRM_NO_FREE_SPACE): somebody clears it;
- a checksum that differs at the destination: the bytes were damaged on the way, and another copy may be whole; but
  where the source has another one than was asked for no copy will help.

"Login incorrect", which FTS does not know, is how GridFTP servers refuse somebody for good.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from enum import StrEnum

__all__ = ["Verdict", "exists", "judge", "waited_too_long"]


class Verdict(StrEnum):
    """What is to be made of a reason."""

    NEVER = "never"
    AGAIN = "again"
    UNKNOWN = "unknown"


# Tried again whatever else is said.
_FORCED = (
    "performance marker",
    "name or service not known",
    "connection timed out",
    "end-of-file was reached",
    "end of file occurred",
    "srm_internal_error",
    "was forcefully killed",
    "operation timeout",
)
# What FTS would not try again, and the hub does.
_MENDED = (
    "proxy expired",
    "certificate has expired",
    "crl has expired",
    "srm_no_free_space",
    "no space left on device",
)
_WRONG = ("checksum do not match", "checksum mismatch", "checksums do not match", "checksum are different")
_WRONG_SOURCE = ("source checksum mismatch", "source checksum and user-specified", "user_define and src")
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
    "system error in write into hdfs",
    "login incorrect",
)
_QUEUED = "stayed in the queue for too long"
# What FTS's server says of its agents, which it gives up then: another job gets another one.
_AGENTS = (
    "probably stalled",
    "because it was stalled",
    "because it was not responding",
    "transfer process died",
    "transfer terminate handler called",
    "no share configured for this vo",
)
# What FTS tries again because it knows no better, also where no number comes with it.
_AGAIN = (
    *_AGENTS,
    "communication error",
    "connection refused",
    "connection reset",
    "timeout has been exceeded",
    _QUEUED,
)
_EXISTS = ("file exists", "exists and overwrite is not enabled", "destination file exists")
_EVERYWHERE = {errno.EPERM, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.E2BIG, errno.EPROTONOSUPPORT}
_NUMBERS = {
    "SOURCE": _EVERYWHERE | {errno.ENOENT, errno.ENOTDIR},
    "DESTINATION": _EVERYWHERE | {errno.EROFS, errno.EFAULT, errno.EEXIST},
    "GENERAL_FAILURE": set(),
    "TRANSFER": _EVERYWHERE - {errno.EISDIR, errno.E2BIG} | {errno.EEXIST, errno.EFBIG, errno.EROFS},
}
_SCOPED = re.compile(r"\s*([A-Z_]+) \[(\d+)\]")


def judge(reason: str) -> Verdict:
    """Whether what ended for ``reason`` may succeed another time."""
    said = reason.lower()
    found = _SCOPED.match(reason)
    scope, number = (found[1], int(found[2])) if found else ("", 0)
    if _has(said, _FORCED) or number == errno.ETIMEDOUT:
        return Verdict.AGAIN
    if number == errno.ECANCELED:
        return Verdict.NEVER
    if _has(said, _WRONG):
        return Verdict.NEVER if scope == "SOURCE" or _has(said, _WRONG_SOURCE) else Verdict.AGAIN
    if _has(said, _MENDED) or number == errno.ENOSPC:
        return Verdict.AGAIN
    if _has(said, _NEVER):
        return Verdict.NEVER
    if scope in _NUMBERS:
        return Verdict.NEVER if number in _NUMBERS[scope] else Verdict.AGAIN
    return Verdict.AGAIN if _has(said, _AGAIN) else Verdict.UNKNOWN


def _has(said: str, texts: Iterable[str]) -> bool:
    return any(each in said for each in texts)


def exists(reason: str) -> bool:
    """Whether something was in the way at the destination."""
    found = _SCOPED.match(reason)
    there = found is not None and found[1] == "DESTINATION" and int(found[2]) == errno.EEXIST
    return there or _has(reason.lower(), _EXISTS)


def waited_too_long(reason: str) -> bool:
    """Whether FTS gave it up in its queue: then it says CANCELED, as of what somebody has cancelled."""
    return _QUEUED in reason.lower()
