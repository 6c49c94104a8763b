"""The one table from what went wrong to what HTTP says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from secrets import token_hex
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from datahub.errors import (
    Conflict,
    Damaged,
    DatahubError,
    Gone,
    InvalidRequest,
    Misdirected,
    Mismatch,
    NoSpace,
    NotAcceptable,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    PreconditionFailed,
    RangeNotSatisfiable,
    TooLarge,
    Unavailable,
    UpstreamFault,
    UpstreamSilent,
    WrongState,
)
from datahub.web.answer import Answer

__all__ = ["Refusal", "refusal"]

log = Logger()

Refusal = Callable[[int, DatahubError], Mapping[str, Any] | str]
"""Gives the body of an error answer whose shape a replaced system fixed: JSON, or plain text."""

STATUSES: Mapping[type[DatahubError], int] = {
    InvalidRequest: 400,
    NotAuthenticated: 401,
    NotPermitted: 403,
    NotFound: 404,
    NotAcceptable: 406,
    Conflict: 409,
    Gone: 410,
    PreconditionFailed: 412,
    TooLarge: 413,
    RangeNotSatisfiable: 416,
    Misdirected: 421,
    Mismatch: 422,
    WrongState: 422,
    Damaged: 500,
    UpstreamFault: 502,
    Unavailable: 503,
    UpstreamSilent: 504,
    NoSpace: 507,
}
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="datahub"'}
LATER = frozenset({429, 503, 507})


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: int
    error: DatahubError
    headers: Mapping[str, str] = field(default_factory=dict)
    incident: str | None = None


def refusal(failure: Failure, method: str, path: str, request_id: str, refuses: Refusal | None) -> Answer:
    """The answer to a request that failed: ``refuses`` shapes its body, else it is a problem (RFC 9457).

    A failure that nobody foresaw is logged with an incident id; the answer tells the id and nothing else.
    """
    verdict = _foreseen(failure.value, method, path) or _incident(failure, method, path, request_id)
    # What is wrong now may be right in a moment: a cache keeps a 404 otherwise.
    headers = {"X-Datahub-Error": verdict.error.code, "Cache-Control": "no-store", **verdict.headers}
    if verdict.status in LATER:
        headers["Retry-After"] = str(getattr(verdict.error, "retry_after", Unavailable("").retry_after))
    shaped = _shaped(verdict, refuses)
    if shaped is not None:
        if isinstance(shaped, str):
            return Answer(verdict.status, shaped.encode(), headers, "text/plain; charset=utf-8")
        return Answer(verdict.status, shaped, headers)
    return Answer(verdict.status, _problem(verdict, request_id), headers, "application/problem+json")


def _foreseen(error: BaseException | None, method: str, path: str) -> _Verdict | None:
    if isinstance(error, HTTPException):
        return _unrouted(error, method, path)
    if isinstance(error, TimeoutError):
        return _Verdict(503, Unavailable(str(error) or "this took too long"))
    if isinstance(error, CancelledError):
        return _Verdict(503, Unavailable("the hub gave this up, as it does when it stops; ask again"))
    for kind in type(error).__mro__:
        if isinstance(error, DatahubError) and kind in STATUSES:
            status = STATUSES[kind]
            return _Verdict(status, error, _headers(status, error))
    return None


def _headers(status: int, error: DatahubError) -> Mapping[str, str]:
    if isinstance(error, RangeNotSatisfiable):
        return {"Content-Range": f"bytes */{error.size}"}
    return CHALLENGE if status == 401 else {}


def _unrouted(error: HTTPException, method: str, path: str) -> _Verdict:
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        text = f"{method} is not possible at {path}; possible are: {allowed}"
        return _Verdict(405, InvalidRequest(text, code="request.method"), {"Allow": allowed})
    if error.code == 404:
        return _Verdict(404, NotFound(f"there is nothing at {path}"))
    return _Verdict(error.code or 400, InvalidRequest(error.description or error.name))


def _incident(failure: Failure, method: str, path: str, request_id: str) -> _Verdict:
    incident = token_hex(6)
    log.failure(
        "incident {incident}: {method} {path} failed",
        failure=failure,
        incident=incident,
        method=method,
        path=path,
        request_id=request_id,
    )
    text = f"an internal fault; its incident id is {incident}, which the operator finds in the log"
    return _Verdict(500, DatahubError(text), incident=incident)


def _shaped(verdict: _Verdict, refuses: Refusal | None) -> Mapping[str, Any] | str | None:
    if refuses is None:
        return None
    try:
        return refuses(verdict.status, verdict.error)
    except Exception:
        # A fault in here must not leave the caller without any answer.
        log.failure("no shape for the error {code}", code=verdict.error.code)
        return None


def _problem(verdict: _Verdict, request_id: str) -> Mapping[str, Any]:
    members = {
        "type": "about:blank",
        "title": HTTPStatus(verdict.status).phrase,
        "status": verdict.status,
        "detail": str(verdict.error),
        "code": verdict.error.code,
        "field": getattr(verdict.error, "field", None) or None,
        "request_id": request_id,
        "incident": verdict.incident,
    }
    return {name: value for name, value in members.items() if value is not None}
