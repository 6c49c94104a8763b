"""What is made of the reasons that FTS gives: all of those by which it decides itself, and where the hub departs."""

from __future__ import annotations

import errno

import pytest

from datahub.transfers.movers.fts_errors import Verdict, exists, judge

FORCED = [
    "performance marker",
    "Name or service not known",
    "Connection timed out",
    "end-of-file was reached",
    "end of file occurred",
    "SRM_INTERNAL_ERROR",
    "was forcefully killed",
    "operation timeout",
]
NEVER = [
    "550 File not found",
    "File exists",
    "File exists and overwrite",
    "Destination file exists and overwrite is not enabled",
    "Destination file exists and is on tape",
    "No such file or directory",
    "SRM_INVALID_PATH",
    "SRM Authentication failed",
    "SRM_DUPLICATION_ERROR",
    "SRM_AUTHENTICATION_FAILURE",
    "Permission denied",
    "The source file is not ONLINE",
    "Can not determine address of local host",
    "digest too big for rsa key",
    "System error in write into HDFS",
]
# FTS never tries these again; the hub does, for the reasons that `fts_errors` tells.
MENDED = [
    "proxy expired",
    "certificate has expired",
    "available CRL has expired",
    "SRM_NO_FREE_SPACE",
    "DESTINATION CHECKSUM MISMATCH",
    "Source and destination checksum do not match",
    "USER_DEFINE and DST ADLER32 checksum do not match",
]
SOURCE = "ENOENT EPERM EACCES EISDIR ENAMETOOLONG E2BIG ENOTDIR EPROTONOSUPPORT"
DESTINATION = "EPERM EACCES EISDIR E2BIG EROFS EFAULT ENAMETOOLONG EPROTONOSUPPORT EEXIST"
TRANSFER = "EPERM EACCES EEXIST EFBIG EROFS ENAMETOOLONG EPROTONOSUPPORT"


@pytest.mark.parametrize("text", FORCED)
def test_what_is_always_tried_again(text):
    """Whatever else is said, and whatever the number is."""
    for reason in (text, f"TRANSFER [13] {text}", f"DESTINATION [5] Permission denied: {text}", f"SOURCE [2] {text}"):
        assert judge(reason) is Verdict.AGAIN


@pytest.mark.parametrize("text", NEVER)
def test_what_is_never_tried_again(text):
    """With a number that says nothing, and without one; a connection in the text makes no difference."""
    for reason in (text, f"TRANSFER [5] {text}", f"DESTINATION [70] {text}: Communication error", text.upper()):
        assert judge(reason) is Verdict.NEVER


@pytest.mark.parametrize("text", MENDED)
def test_where_the_hub_departs(text):
    """What an operator or another copy mends is tried again."""
    for reason in (text, f"TRANSFER [5] {text}", f"DESTINATION [13] {text}"):
        assert judge(reason) is Verdict.AGAIN


@pytest.mark.parametrize(("scope", "never"), [("SOURCE", SOURCE), ("DESTINATION", DESTINATION), ("TRANSFER", TRANSFER)])
def test_numbers(scope, never):
    """Each scope has its own; all the others are tried again, but for what was cancelled."""
    final = {getattr(errno, each) for each in never.split()} | {errno.ECANCELED}
    for number in errno.errorcode:
        verdict = Verdict.NEVER if number in final else Verdict.AGAIN
        assert judge(f"{scope} [{number}] whatever") is verdict, errno.errorcode[number]


def test_time_that_is_over():
    """It is worth another try, even if the text says more."""
    assert judge("STAGING [110] bring-online timeout has been exceeded") is Verdict.AGAIN
    assert judge("DESTINATION [110] Permission denied") is Verdict.AGAIN
    assert judge("archive timeout has been exceeded") is Verdict.AGAIN
    assert judge("Job has been canceled because it stayed in the queue for too long") is Verdict.AGAIN


@pytest.mark.parametrize(
    "reason",
    [
        "SOURCE [22] SOURCE CHECKSUM MISMATCH Source checksum and user-specified checksum do not match: 1 != 2",
        "TRANSFER [5] SOURCE CHECKSUM MISMATCH",
        "Source checksum and user-specified checksum do not match",
        "SOURCE [5] checksum do not match",
        "TRANSFER [5] USER_DEFINE and SRC checksum are different. 1 != 2",
    ],
)
def test_a_checksum_that_was_wrong_from_the_start(reason):
    """The caller has given another one than the source has: no copy will ever have it."""
    assert judge(reason) is Verdict.NEVER


@pytest.mark.parametrize(
    "reason",
    [
        "No FTS server has updated the transfer status the last 900 seconds. Probably stalled",
        "Transfer has been forced-killed because it was stalled",
        "Transfer has been canceled because it was not responding",
        "GENERAL_FAILURE [22] Transfer process died with: 0x1",
        "GENERAL_FAILURE [4] Transfer terminate handler called:15",
        "No share configured for this VO",
    ],
)
def test_what_the_server_says_of_its_agents(reason):
    """It gives up whom it hears no more of: another one may copy it."""
    assert judge(reason) is Verdict.AGAIN


def test_what_nobody_knows():
    """Without a scope that has numbers it is said to be unknown."""
    assert judge("") is Verdict.UNKNOWN
    assert judge("something new") is Verdict.UNKNOWN
    assert judge("GENERAL [5] something new") is Verdict.UNKNOWN
    assert judge("something new: connection reset by peer") is Verdict.AGAIN


@pytest.mark.parametrize(
    ("reason", "there"),
    [
        ("DESTINATION [17] whatever", True),
        ("Destination file exists and overwrite is not enabled", True),
        ("DESTINATION [5] Destination file exists and is on tape", True),
        ("globus_ftp: 553 File exists", True),
        ("SOURCE [17] whatever", False),
        ("DESTINATION [13] Permission denied", False),
    ],
)
def test_something_in_the_way(reason, there):
    """By its number at the destination, or by its text."""
    assert exists(reason) is there
