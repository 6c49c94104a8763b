"""The request to a stager, byte for byte, and what each kind of answer, or none, comes to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from OpenSSL.SSL import Error as TlsError
from treq.client import HTTPClient
from treq.testing import RequestTraversalAgent, _SynchronousProducer
from twisted.internet import error as network
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from datahub.errors import FinalFault, PassingFault
from datahub.kit.aio import start
from datahub.kit.asking import LIMIT, SHOWN
from datahub.transfers.stagers import Errand, Promised
from datahub.transfers.stagers.callback import Address, CallbackStager, Patience

CODE = "0123456789abcdef" * 2
ERRAND = Errand("job-1", "2026/ü & 005", CODE)
ADDRESS = Address("http://stager:8081/stage?site=x", "POST", "http://hub/doneStaging", "the-token")
PATIENCE = Patience(connect=5, answer=30, body=7)


class Wire(Resource):
    """A stager in memory that answers as a test says."""

    isLeaf = True

    def __init__(self, answer: Any = b"{}", code: int = 200) -> None:
        super().__init__()
        self.answer = answer
        self.code = code
        self.requests: list[Any] = []
        self.clock = Clock()
        self.agent = RequestTraversalAgent(self)

    def render(self, request: Any) -> Any:
        self.requests.append((request.method, request.uri, request.content.read(), request.requestHeaders))
        request.setResponseCode(self.code)
        if isinstance(self.answer, bytes):
            return self.answer
        self.answer(request)
        return NOT_DONE_YET

    def stage(self, address: Address = ADDRESS) -> Any:
        """Ask, and give the Deferred of what comes of it."""
        client = HTTPClient(self.agent, data_to_body_producer=_SynchronousProducer)
        asking = start(CallbackStager(address, client, None, self.clock, PATIENCE).stage(ERRAND))
        self.agent.flush()
        return asking

    def outcome(self, address: Address = ADDRESS) -> Any:
        """Ask, and give what came of it at once."""
        return result_of(self.stage(address))


def result_of(asking: Any) -> Any:
    """What a Deferred that has fired holds; raises its failure."""
    found: list[Any] = []
    asking.addBoth(found.append)
    assert found, "nothing came of it yet"
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return found[0]


def test_the_request_is_the_prototypes_form() -> None:
    """By POST all fields are in the body, so that no access log holds the passcode; the token goes with it."""
    wire = Wire(b'{"status": "Request for product ID 005 queued"}')
    assert wire.outcome() == Promised("Request for product ID 005 queued")
    ((method, uri, body, headers),) = wire.requests
    assert (method, uri) == (b"POST", b"/stage?site=x")
    assert parse_qs(body.decode(), strict_parsing=True) == {
        "job_id": ["job-1"],
        "product_id": ["2026/ü & 005"],
        "authcode": [CODE],
        "callback": ["http://hub/doneStaging"],
    }
    assert headers.getRawHeaders("content-type") == ["application/x-www-form-urlencoded"]
    assert headers.getRawHeaders("authorization") == ["Bearer the-token"]


def test_old_stagers_are_asked_by_get() -> None:
    """The same fields in the query string, beside what the URL has; without a token no header."""
    wire = Wire()
    wire.outcome(replace(ADDRESS, method="GET", token=None))
    ((method, uri, body, headers),) = wire.requests
    assert (method, body) == (b"GET", b"")
    fields = parse_qs(uri.partition(b"?")[2].decode(), strict_parsing=True)
    assert fields["site"] == ["x"]
    assert fields["authcode"] == [CODE]
    assert not headers.hasHeader("authorization")


@pytest.mark.parametrize("code", [500, 502, 503, 504, 408, 425, 429])
def test_trouble_of_the_stager_may_pass(code: int) -> None:
    """It is tried again; people read what the stager said, and where it is without its query."""
    with pytest.raises(PassingFault) as caught:
        Wire(b"out of tapes", code).outcome()
    assert str(caught.value) == f"the stager http://stager:8081/stage answered {code}: out of tapes"


@pytest.mark.parametrize("code", [301, 307, 400, 401, 403, 404, 405, 422])
def test_a_refusal_is_final(code: int) -> None:
    """Also a redirect, which is not followed: the passcode is for this stager alone."""
    with pytest.raises(FinalFault, match=rf"answered {code}$"):
        Wire(b"", code).outcome()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", ""),
        (b"fine\n\n thanks", "fine thanks"),
        (b'{"status": 5}', '{"status": 5}'),
        (b"[1]", "[1]"),
        (b"\xff\0\x1b[31mred", "\ufffd [31mred"),
        (b"<html><script>x = 1</script><h1>Log in</h1></html>", "Log in"),
        (f"<p>NameError in {{'authcode': '{CODE}'}}".encode(), "NameError in {'authcode': '***'}"),
        (b"[" * 20_000, "[" * SHOWN + "\u2026"),
        (b"y" * 3 * LIMIT, "y" * SHOWN + "\u2026"),
    ],
)
def test_what_the_stager_says_is_for_people(answer: bytes, said: str) -> None:
    """One short line without control characters, whatever comes; a passcode that comes back is not kept."""
    assert Wire(answer).outcome() == Promised(said)


def test_a_silent_stager_is_given_its_time() -> None:
    """Not less and not more; the request is broken off then."""
    wire = Wire(lambda request: None)
    asking = wire.stage()
    wire.clock.advance(29)
    assert not asking.called
    wire.clock.advance(1.1)
    with pytest.raises(PassingFault, match="the stager is silent: the answer of http://stager:8081/stage took longer"):
        result_of(asking)
    assert wire.clock.getDelayedCalls() == []


def test_an_answer_that_drips_counts_by_its_status() -> None:
    """Its beginning is kept; nobody waits for an end."""
    wire = Wire(lambda request: request.write(b"so "))
    asking = wire.stage()
    wire.clock.advance(6.9)
    assert not asking.called
    wire.clock.advance(0.2)
    assert result_of(asking) == Promised("so")
    assert wire.clock.getDelayedCalls() == []


def test_an_errands_passcode_is_not_shown() -> None:
    """Neither where a log or a traceback shows the value."""
    assert CODE not in repr(ERRAND)


class Away:
    """An agent whose requests fail."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Deferred[Any]:  # noqa: N803
        return fail(self.error)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (network.ConnectionRefusedError(), "Connection was refused by other side"),
        (network.TimeoutError(), "User timeout caused connection failure"),
        (network.DNSLookupError("no results for hostname lookup: stager"), "no results for hostname lookup: stager"),
        (ResponseNeverReceived([Failure(network.ConnectionLost())]), "Connection to the other side was lost"),
        (
            ResponseFailed([Failure(TlsError([("SSL routines", "", "certificate verify failed")]))]),
            "certificate verify",
        ),
    ],
)
def test_a_stager_that_is_away_may_come_back(error: Exception, told: str) -> None:
    """The reason is that which lies innermost, in plain words."""
    client: Any = HTTPClient(Away(error))  # type: ignore[arg-type]  # as much of an agent as is needed
    stager = CallbackStager(ADDRESS, client, None, Clock(), PATIENCE)
    with pytest.raises(PassingFault) as caught:
        result_of(start(stager.stage(ERRAND)))
    assert str(caught.value).startswith("the stager http://stager:8081/stage can't be reached: ")
    assert told in str(caught.value)


def test_a_fault_of_our_own_is_none_of_the_stagers() -> None:
    """It is not taken for an outage."""
    client: Any = HTTPClient(Away(KeyError("x")))  # type: ignore[arg-type]  # as above
    with pytest.raises(KeyError):
        result_of(start(CallbackStager(ADDRESS, client, None, Clock(), PATIENCE).stage(ERRAND)))


def test_a_shown_address_has_no_query(tmp_path: Path) -> None:
    """Which may hold a key."""
    assert str(ADDRESS) == "http://stager:8081/stage"
