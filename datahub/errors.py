"""What can go wrong, in the words of the domain; `datahub.web.errors` knows the HTTP status of each.

``code`` is the machine-readable name a client may rely on (the ``X-Datahub-Error`` header, listed in
docs/api.md). The text is for people: it names the field, the value and what would be right.
"""

from __future__ import annotations

__all__ = [
    "Conflict",
    "Damaged",
    "DatahubError",
    "FinalFault",
    "Gone",
    "InvalidRequest",
    "Misdirected",
    "Mismatch",
    "NoSpace",
    "NotAcceptable",
    "NotAuthenticated",
    "NotFound",
    "NotPermitted",
    "PassingFault",
    "PreconditionFailed",
    "RangeNotSatisfiable",
    "StartError",
    "Superseded",
    "TooLarge",
    "Unavailable",
    "UpstreamFault",
    "UpstreamSilent",
    "WrongState",
]


class DatahubError(Exception):
    """The base of all that datahub raises on purpose."""

    code = "hub.fault"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or type(self).code


class InvalidRequest(DatahubError):
    """The caller asked for something that can never be right; ``field`` names the part that is wrong."""

    code = "request.invalid"

    def __init__(self, message: str, *, field: str = "", code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class Misdirected(DatahubError):
    """The request is for another host than this hub: a name that leads here by mistake, or by somebody's trick."""

    code = "request.host"


class NotAuthenticated(DatahubError):
    """The caller gave no credentials, or bad ones."""

    code = "auth.required"


class NotPermitted(DatahubError):
    """The caller is known and may not do this."""

    code = "auth.forbidden"


class NotFound(DatahubError):
    """There is nothing of that name."""

    code = "request.not_found"


class Gone(NotFound):
    """There was something of that name, and it will not come back."""

    code = "request.gone"


class RangeNotSatisfiable(DatahubError):
    """The range that was asked for is not in a thing of ``size`` bytes."""

    code = "request.range"

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class Conflict(DatahubError):
    """What is asked for contradicts what is there already."""

    code = "request.conflict"


class WrongState(DatahubError):
    """What is asked for is possible, but not in the state in which the record is."""

    code = "request.state"


class NotAcceptable(DatahubError):
    """What is there can't be given in the form that was asked for."""

    code = "request.not_acceptable"


class Mismatch(DatahubError):
    """What was sent is not what the caller said it is."""

    code = "request.mismatch"


class Damaged(DatahubError):
    """What is kept is not what was put there: nobody is given it."""

    code = "hub.damaged"


class PreconditionFailed(DatahubError):
    """What the caller has is not what is here now."""

    code = "request.precondition"


class TooLarge(DatahubError):
    """The request's body is over the limit."""

    code = "request.too_large"


class NoSpace(DatahubError):
    """The disk is at its reserve: new work is refused until space is free; ``retry_after`` in seconds."""

    code = "hub.no_space"

    def __init__(self, message: str, *, retry_after: int = 60) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(DatahubError):
    """A part the hub stands on is away for now; ``retry_after`` in seconds."""

    code = "hub.unavailable"

    def __init__(self, message: str, *, retry_after: int = 5, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class UpstreamFault(DatahubError):
    """A server behind the hub can't be reached, or answers what it should not; the text says who and what."""

    code = "upstream.fault"


class UpstreamSilent(UpstreamFault):
    """A server behind the hub does not answer in time."""

    code = "upstream.silent"


class StartError(DatahubError):
    """The daemon can't start; the text is one line that says what to do."""

    code = "hub.start"


class Superseded(DatahubError):
    """Another attempt owns this work now: nothing of this one may take effect."""

    code = "work.superseded"


class PassingFault(DatahubError):
    """A step failed for a reason that may pass (a full disk, a peer away): it is tried again."""

    code = "work.passing"


class FinalFault(DatahubError):
    """A step failed for a reason that will not pass (no such product): trying again is useless."""

    code = "work.final"
