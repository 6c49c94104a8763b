"""The table from what went wrong to HTTP."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from twisted.internet.defer import CancelledError
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from werkzeug.exceptions import BadHost, MethodNotAllowed
from werkzeug.exceptions import NotFound as NoRoute

from datahub import errors
from datahub.errors import DatahubError
from datahub.web.answer import Answer
from datahub.web.errors import STATUSES, Refusal, refusal


def refused(error: BaseException, refuses: Refusal | None = None) -> tuple[Answer, dict[str, Any]]:
    """The answer to ``error``, and its body."""
    answer = refusal(Failure(error), "POST", "/x", "r1", refuses)
    return answer, msgspec.json.decode(answer.encoded())


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidRequest("bad"), 400, "request.invalid"),
        (errors.NotAuthenticated("bad"), 401, "auth.required"),
        (errors.NotPermitted("bad"), 403, "auth.forbidden"),
        (errors.NotFound("bad"), 404, "request.not_found"),
        (errors.Conflict("bad", code="transfer.busy"), 409, "transfer.busy"),
        (errors.NotAcceptable("bad"), 406, "request.not_acceptable"),
        (errors.TooLarge("bad"), 413, "request.too_large"),
        (errors.Mismatch("bad"), 422, "request.mismatch"),
        (errors.Damaged("bad"), 500, "hub.damaged"),
        (errors.Unavailable("bad"), 503, "hub.unavailable"),
        (errors.NoSpace("bad"), 507, "hub.no_space"),
        (TimeoutError("bad"), 503, "hub.unavailable"),
    ],
)
def test_every_foreseen_error_has_its_status(error, status, code):
    """Status, problem and header say the same of an error, and its text is the detail."""
    answer, body = refused(error)
    assert (answer.status, answer.content_type) == (status, "application/problem+json")
    assert answer.headers["X-Datahub-Error"] == code
    assert body["title"]
    assert {name: body[name] for name in ("type", "status", "detail", "code", "request_id")} == {
        "type": "about:blank",
        "status": status,
        "detail": "bad",
        "code": code,
        "request_id": "r1",
    }
    assert "incident" not in body


def test_a_subclass_is_answered_as_its_parent():
    """A capability may refine an error of the table."""

    class Busy(errors.Conflict):
        code = "cart.busy"

    assert refused(Busy("x"))[0].status == 409
    assert all(issubclass(each, DatahubError) for each in STATUSES)


def test_the_field_is_told():
    """A problem names the field that is wrong, if it is one."""
    assert refused(errors.InvalidRequest("bad", field="product_id"))[1]["field"] == "product_id"
    assert "field" not in refused(errors.InvalidRequest("bad"))[1]


def test_challenge_and_retry_after():
    """401 says how to come in, 503 and 507 say when to come again."""
    assert refused(errors.NotAuthenticated("x"))[0].headers["WWW-Authenticate"] == 'Bearer realm="datahub"'
    assert refused(errors.NoSpace("x", retry_after=61))[0].headers["Retry-After"] == "61"
    assert refused(errors.Unavailable("x"))[0].headers["Retry-After"] == "5"
    assert refused(TimeoutError())[0].headers["Retry-After"] == "5"
    assert "Retry-After" not in refused(errors.NotFound("x"))[0].headers


def test_what_the_routing_refuses():
    """Routing errors are problems like all others, and 405 keeps its Allow."""
    answer, body = refused(MethodNotAllowed(["POST", "GET"]))
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")
    assert body["detail"] == "POST is not possible at /x; possible are: GET, POST"
    assert refused(NoRoute())[1]["detail"] == "there is nothing at /x"
    assert refused(BadHost())[0].status == 400


def test_what_was_cancelled_may_be_asked_again():
    """A request given up by the hub itself is no fault."""
    answer, _ = refused(CancelledError())
    assert answer.status == 503


@pytest.mark.parametrize("error", [KeyError("/etc/secret"), errors.Superseded("inner"), errors.PassingFault("disk")])
def test_an_unforeseen_error_is_an_incident(error):
    """What nobody foresaw is logged with an id; the caller gets the id, and nothing of the matter."""
    with capturedLogs() as events:
        answer, body = refused(error)
    (event,) = [event for event in events if "incident" in event]
    assert event["incident"] == body["incident"]
    assert event["log_failure"].value is error
    assert (event["method"], event["path"], event["request_id"]) == ("POST", "/x", "r1")
    assert (answer.status, body["code"]) == (500, "hub.fault")
    assert body["incident"] in body["detail"]
    assert str(error) not in answer.encoded().decode()


def test_a_shape_of_its_own():
    """Where a replaced system fixed the shape of errors it is that; the headers stay."""
    answer, body = refused(
        errors.InvalidRequest("bad", field="a"),
        lambda status, error: {"job_id": None, "msg": str(error), "status": status},
    )
    assert body == {"job_id": None, "msg": "bad", "status": 400}
    assert answer.content_type == "application/json"
    assert answer.headers["X-Datahub-Error"] == "request.invalid"


def test_a_shape_of_its_own_for_an_incident():
    """Even then nothing internal is told, but the incident is."""
    answer, body = refused(KeyError("secret"), lambda status, error: {"msg": str(error)})
    assert answer.status == 500
    assert "incident" in body["msg"]
    assert "secret" not in body["msg"]


def test_a_shape_that_fails_is_replaced_by_a_problem():
    """A fault in the shape is logged, and the caller still hears what was wrong."""

    def broken(status: int, error: DatahubError) -> dict[str, Any]:
        raise RuntimeError

    with capturedLogs() as events:
        answer, body = refused(errors.NotFound("gone"), broken)
    assert (answer.status, body["detail"]) == (404, "gone")
    assert any(isinstance(event["log_failure"].value, RuntimeError) for event in events if "log_failure" in event)
