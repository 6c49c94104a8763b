"""A stager that calls back, as a real process: what it may do to us, and that slots and passcodes survive it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.stager import HOST
from tests.whole.daemon import Daemon, until
from tests.whole.site import EMPTY, FILE, TREE, Site
from tests.whole.stager import Staging, files_with, report

TAKEN = (200, "Finished processing staging callback\n")
REFUSED = (403, "Unauthorized\n")


@pytest.fixture
def staging(site: Site) -> Iterator[Staging]:
    """Give a stager that is not started yet, and end it."""
    staging = Staging(site)
    yield staging
    staging.stop()


def said(daemon: Daemon, fields: dict[str, str], method: str = "POST", **headers: str) -> tuple[int, str]:
    """Report, and give status and text of the answer."""
    answer = report(daemon, fields, method, **headers)
    return answer.status, answer.text


def parked(staging: Staging, daemon: Daemon, job: str) -> dict[str, str]:
    """Wait until the stager has the job and the hub knows it; what was asked."""
    asked = staging.asked(job)
    until(lambda: staging.site.rows(f"SELECT id FROM work WHERE subject = '{job}' AND state = 'parked'"), "parked")
    return asked


def heard(daemon: Daemon, job: str) -> bool:
    """Whether the stager's answer to the request has come."""
    return "taken the request" in daemon.status(job).get("stager_status", "")


def check_slot_is_free(staging: Staging, daemon: Daemon) -> None:
    """One more product goes through, and then nothing is left to do."""
    staging.behave("works")
    staging.site.check_success(daemon.await_final([staging.site.submit(daemon, FILE)]))
    staging.site.check_settled()


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_products_are_staged_and_delivered(staging: Staging, method: str) -> None:
    """Files and folders, by POST and by GET; no passcode is left anywhere but with the stager."""
    site, daemon = staging.site, staging.hub(stager_method=method)
    staging.start()
    daemon.start()
    jobs = [site.submit(daemon, product) for product in (FILE, TREE, EMPTY)]
    seen = daemon.await_final(jobs)
    site.check_success(seen)
    site.check_settled()
    assert {each["method"] for each in staging.seen("asked")} == {method}
    assert staging.seen("answers") == [list(TAKEN)] * 3
    for job in seen:
        asked = staging.asked(job["job_id"])
        assert job["stager_hostname"] == HOST
        assert Path(job["stager_path"]).is_relative_to(staging.staged)
        assert job["stager_status"] == f"Product {job['product_id']} staged successfully to {job['stager_path']}"
        assert job["time_staging"] <= job["time_staging_finished"] <= job["time_transferring"]
        assert asked["callback"] == f"http://127.0.0.1:{daemon.port}/doneStaging"
        assert len(asked["authcode"]) == 32
        assert files_with(site.folder, asked["authcode"]) == []


def test_a_stager_that_is_away_holds_no_slot(staging: Staging) -> None:
    """Defect 5: jobs stay SUBMITTED and say what they wait for; when it comes all of them go on."""
    site, daemon = staging.site, staging.hub()
    daemon.start()
    jobs = [site.submit(daemon, FILE) for _ in range(3)]
    for job in jobs:
        waiting = daemon.await_retry(job)
        assert waiting["status"] == "SUBMITTED"
        assert f"the stager {staging.url} can't be reached: Connection was refused" in waiting["waiting_on"]["reason"]
        assert waiting["waiting_on"]["next_at"] > waiting["waiting_on"]["since"]
    staging.start()
    site.check_success(daemon.await_final(jobs))
    site.check_settled()


def test_a_failure_is_a_failure(staging: Staging) -> None:
    """Defect 1: ``success=False`` is text, and not true for that; the transfer ends with the stager's words."""
    site, daemon = staging.site, staging.hub()
    staging.start("mute")
    daemon.start()
    for success in ("False", "false", "0", "no", ""):
        job = site.submit(daemon, FILE)
        fields = staging.report_of(
            parked(staging, daemon, job), success=success, msg="Error copying\n product", path=""
        )
        assert said(daemon, fields) == TAKEN
        seen = daemon.status(job)
        assert (seen["status"], seen["detailed_status"]) == ("ERROR", "the stager failed: Error copying product")
        assert seen["time_error"]
        assert said(daemon, fields) == TAKEN
        assert said(daemon, {**fields, "success": "True"}) == REFUSED
        assert daemon.status(job) == seen
    check_slot_is_free(staging, daemon)


def test_a_report_may_come_before_the_answer(staging: Staging) -> None:
    """The attempt was committed before the request."""
    site, daemon = staging.site, staging.hub()
    staging.start("early")
    daemon.start()
    site.check_success(daemon.await_final([site.submit(daemon, FILE) for _ in range(3)]))
    assert staging.seen("answers") == [list(TAKEN)] * 3
    site.check_settled()


def test_a_lost_answer_loses_nothing(staging: Staging) -> None:
    """The report counts though the hub believes that the stager is away; what was sent again has the same passcode."""
    site, daemon = staging.site, staging.hub()
    staging.start("lost")
    daemon.start()
    job = site.submit(daemon, FILE)
    site.check_success(daemon.await_final([job]))
    assert staging.seen("answers")[0] == list(TAKEN)
    assert len({each["authcode"] for each in staging.seen("asked")}) == 1
    check_slot_is_free(staging, daemon)


def test_a_passcode_works_once(staging: Staging) -> None:
    """Defect 2: the same report again changes nothing, another one is refused, also long after the end."""
    site, daemon = staging.site, staging.hub()
    staging.start("twice")
    daemon.start()
    job = site.submit(daemon, FILE)
    site.check_success(daemon.await_final([job]))
    until(lambda: len(staging.seen("answers")) == 2, "two reports")
    assert staging.seen("answers") == [list(TAKEN)] * 2
    seen, asked = daemon.status(job), staging.asked(job)
    evil = staging.report_of(asked, path="/etc/passwd", staged_to="evil.example")
    assert said(daemon, evil) == REFUSED
    assert said(daemon, {**evil, "path": seen["stager_path"]}, "GET") == REFUSED
    assert said(daemon, {**evil, "product_id": TREE}) == REFUSED
    assert daemon.status(job) == seen
    site.check_settled()


def test_a_wrong_passcode_changes_nothing(staging: Staging) -> None:
    """Defects 3 and 11: no slot is freed; codes are not to be guessed from one another."""
    site, daemon = staging.site, staging.hub()
    staging.start("mute")
    daemon.start()
    first, second = site.submit(daemon, FILE), site.submit(daemon, TREE)
    right = staging.report_of(parked(staging, daemon, first))
    before = daemon.status(first)
    assert before["waiting_on"]["what"] == "stager"
    assert before["stager_status"] == f"the stager has taken the request: Request for product ID {FILE} queued"
    for wrong in ("", "a" * 32, right["authcode"][:-1], right["authcode"].upper() + "x"):
        assert said(daemon, {**right, "authcode": wrong})[0] == (400 if not wrong else 403)
    assert said(daemon, {**right, "job_id": second}) == REFUSED
    assert said(daemon, {**right, "job_id": "nobody"}) == REFUSED
    assert said(daemon, {**right, "product_id": TREE}) == REFUSED
    assert said(daemon, {**right, "success": "perhaps"}) == (400, "Invalid arguments\n")
    assert said(daemon, {key: right[key] for key in right if key != "path"}) == (400, "Invalid arguments\n")
    assert daemon.status(first) == before
    assert daemon.status(second)["waiting_on"]["what"] == "slot"
    assert said(daemon, right) == TAKEN
    other = staging.asked(second)["authcode"]
    assert other != right["authcode"]
    assert said(daemon, staging.report_of(staging.asked(second))) == TAKEN
    site.check_success(daemon.await_final([first, second]))
    site.check_settled()


def test_slots_are_held_over_a_crash(staging: Staging) -> None:
    """Defect 7: what waits for the stager holds its slot in the ledger, and its passcode is good after a restart."""
    site, daemon = staging.site, staging.hub()
    staging.start("mute")
    daemon.start()
    first, second = site.submit(daemon, FILE), site.submit(daemon, FILE)
    fields = staging.report_of(parked(staging, daemon, first))
    daemon.kill()
    daemon.start()
    assert daemon.status(first)["status"] == "STAGING"
    assert daemon.status(second)["status"] == "SUBMITTED"
    assert [each["job_id"] for each in staging.seen("asked")] == [first]
    assert said(daemon, fields) == TAKEN
    assert said(daemon, staging.report_of(staging.asked(second))) == TAKEN
    site.check_success(daemon.await_final([first, second]))
    site.check_settled()


def test_a_crash_while_the_stager_hangs(staging: Staging) -> None:
    """The request is sent again with the same passcode, so the report on either counts."""
    site, daemon = staging.site, staging.hub()
    staging.start("hang")
    daemon.start()
    job = site.submit(daemon, FILE)
    fields = staging.report_of(staging.asked(job))
    daemon.kill()
    daemon.start()
    assert staging.asked(job, 2)["authcode"] == fields["authcode"]
    assert said(daemon, fields) == TAKEN
    site.check_success(daemon.await_final([job]))


def test_a_late_report_comes_to_nothing(staging: Staging) -> None:
    """After the time for staging its attempt is given up; the next one has a passcode of its own."""
    site, daemon = staging.site, staging.hub(staging_timeout="1 s")
    staging.start("mute")
    daemon.start()
    job = site.submit(daemon, FILE)
    late = staging.report_of(staging.asked(job))
    asked = staging.asked(job, 2)
    assert asked["authcode"] != late["authcode"]
    assert said(daemon, late) == REFUSED
    # The third attempt may be near: what counts is that the one under way is taken.
    staging.behave("works")
    (seen,) = daemon.await_final([job])
    site.check_success([seen])
    assert seen["stager_path"] != late["path"]
    assert said(daemon, late) == REFUSED
    check_slot_is_free(staging, daemon)


def test_a_stager_that_never_reports_is_given_up(staging: Staging) -> None:
    """After ``retry_for`` it is an ERROR that says why, and a report comes too late."""
    site, daemon = staging.site, staging.hub(staging_timeout="1 s", retry_for="1 s")
    staging.start("mute")
    daemon.start()
    job = site.submit(daemon, FILE)
    (seen,) = daemon.await_final([job])
    assert seen["status"] == "ERROR"
    assert "the stager has not called back within 1 s" in seen["detailed_status"]
    count = len([each for each in staging.seen("asked") if each["job_id"] == job])
    assert count >= 2
    assert said(daemon, staging.report_of(staging.asked(job, count))) == REFUSED
    assert daemon.status(job) == seen
    check_slot_is_free(staging, daemon)


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("broken", "answered 500: web.Server Traceback NameError:"),
        ("garbage", "can't be reached"),
    ],
)
def test_a_stager_in_trouble_is_tried_again(staging: Staging, manner: str, reason: str) -> None:
    """Whatever it says is a reason for people; its own traceback does not carry the passcode into the record."""
    site, daemon = staging.site, staging.hub()
    staging.start(manner)
    daemon.start()
    job = site.submit(daemon, FILE)
    waiting = daemon.await_retry(job)
    assert waiting["status"] == "SUBMITTED"
    assert reason in waiting["waiting_on"]["reason"]
    staging.behave("works")
    site.check_success(daemon.await_final([job]))
    assert files_with(site.folder, staging.asked(job)["authcode"]) == []


@pytest.mark.parametrize(
    ("manner", "reason"), [("refuses", "answered 403: Unauthorized"), ("elsewhere", "answered 307")]
)
def test_a_refusal_is_final(staging: Staging, manner: str, reason: str) -> None:
    """Trying again is of no use."""
    site, daemon = staging.site, staging.hub()
    staging.start(manner)
    daemon.start()
    job = site.submit(daemon, FILE)
    (seen,) = daemon.await_final([job])
    assert (seen["status"], seen["detailed_status"]) == ("ERROR", f"the stager {staging.url} {reason}")
    assert said(daemon, staging.report_of(staging.asked(job))) == REFUSED
    check_slot_is_free(staging, daemon)


def test_the_answers_body_decides_nothing(staging: Staging) -> None:
    """A page, an endless or a huge body: its status was 200, the report counts, and it costs no memory."""
    site, daemon = staging.site, staging.hub()
    staging.start("page")
    daemon.start()
    for manner in ("page", "flood", "drip"):
        staging.behave(manner)
        job = site.submit(daemon, FILE)
        fields = staging.report_of(staging.asked(job))
        if manner != "drip":  # which takes its time
            until(partial(heard, daemon, job), "an answer")
            assert len(daemon.status(job)["stager_status"]) < 400
        assert said(daemon, fields) == TAKEN
        site.check_success(daemon.await_final([job]))


def test_a_hanging_stager_can_be_cancelled(staging: Staging) -> None:
    """The request is given up, the slot is free, and a report comes too late."""
    site, daemon = staging.site, staging.hub()
    staging.start("hang")
    daemon.start()
    job = site.submit(daemon, FILE)
    fields = staging.report_of(staging.asked(job))
    assert daemon.status(job)["waiting_on"]["what"] == "stager"
    assert daemon.cancel(job).status == 202
    daemon.await_status(job, "CANCELLED")
    assert said(daemon, fields) == REFUSED
    check_slot_is_free(staging, daemon)


def test_what_waits_for_the_stager_can_be_cancelled(staging: Staging) -> None:
    """As that which hangs."""
    daemon = staging.hub()
    staging.start("mute")
    daemon.start()
    job = staging.site.submit(daemon, FILE)
    fields = staging.report_of(parked(staging, daemon, job))
    assert daemon.cancel(job).status == 202
    assert said(daemon, fields) == REFUSED
    daemon.await_status(job, "CANCELLED")
    check_slot_is_free(staging, daemon)


def places(staging: Staging) -> dict[str, str]:
    """Paths that a stager may report and that are not to be read."""
    (staging.staged / "link").symlink_to("/etc/passwd")
    inside = str(staging.staged)
    return {
        "/etc/passwd": f"'/etc/passwd', which is not below {inside}",
        f"{inside}/../archive/{FILE}": "which is not below",
        f"{inside}/link": "a symbolic link out of the folder of [transfers] staged",
        f"{inside}/nothing": "is not in the folder of [transfers] staged",
        inside: "which is not below",
        "": "the path '', which is not below",
        "a/b": "the path 'a/b', which is not below",
    }


def test_only_what_is_below_staged_is_moved(staging: Staging) -> None:
    """Whatever path is reported: nothing else of this host is delivered, and the error says so."""
    site, daemon = staging.site, staging.hub()
    staging.start("mute")
    daemon.start()
    for path, reason in places(staging).items():
        job = site.submit(daemon, FILE)
        fields = {**staging.report_of(staging.asked(job), path="x"), "path": path}
        assert said(daemon, fields) == TAKEN
        (seen,) = daemon.await_final([job])
        assert seen["status"] == "ERROR"
        assert reason in seen["detailed_status"], path
    assert [each for each in site.deliveries.rglob("*") if not each.is_dir()] == []
    check_slot_is_free(staging, daemon)


def test_what_nobody_here_can_read_is_an_error_that_says_so(staging: Staging) -> None:
    """Without a folder in common the product is at a GridFTP server, which the mover of this host does not read."""
    site, daemon = staging.site, staging.hub(staged="")
    staging.start()
    daemon.start()
    (seen,) = daemon.await_final([site.submit(daemon, FILE)])
    assert seen["status"] == "ERROR"
    place = f"gsiftp://{HOST}{seen['stager_path']}"
    assert f"staged at {place}, and this mover reads only what is here" in seen["detailed_status"]


def test_a_known_stager_needs_no_passcode(staging: Staging, tmp_path: Path) -> None:
    """A token with the scope transfers:stage is enough; one without it is not, and a wrong code is wrong for all."""
    tokens: dict[str, dict[str, Any]] = {
        "auth.tokens.stager": {"token": "of-the-stager", "scopes": ["transfers:stage"]},
        "auth.tokens.alice": {"token": "of-alice", "scopes": ["write"]},
        "transfers.stager_options": {"token": "of-the-hub"},
    }
    site, daemon = staging.site, staging.hub(sections=tokens)
    staging.start("mute")
    daemon.start()
    job = site.submit(daemon, FILE)
    fields = staging.report_of(parked(staging, daemon, job))
    assert staging.asked(job)["authorization"] == "Bearer of-the-hub"
    bare = {key: value for key, value in fields.items() if key != "authcode"}
    assert said(daemon, bare)[0] == 400
    assert said(daemon, bare, Authorization="Bearer of-alice")[0] == 400
    assert said(daemon, fields, Authorization="Bearer wrong") == (401, "Unauthorized\n")
    assert said(daemon, {**fields, "authcode": "x"}, Authorization="Bearer of-the-stager") == REFUSED
    assert said(daemon, bare, Authorization="Bearer of-the-stager") == TAKEN
    assert said(daemon, bare, Authorization="Bearer of-the-stager") == TAKEN
    assert said(daemon, {**bare, "path": "/x"}, Authorization="Bearer of-the-stager") == REFUSED
    site.check_success(daemon.await_final([job]))


@pytest.mark.engine
def test_a_report_may_come_to_any_hub(postgresql_site: Site) -> None:
    """The secret lies in the database: the hub that asked may be gone; the slots are those of both."""
    staging = Staging(postgresql_site)
    a, b = staging.hub("a"), staging.hub("b")
    try:
        staging.start("mute")
        a.start()
        b.start()
        jobs = [postgresql_site.submit(each, FILE) for each in (a, b, a)]
        for hub, _ in zip((b, a, b), jobs, strict=True):
            (asked,) = until(lambda: _open_requests(staging, postgresql_site), "a request")
            fields = staging.report_of(asked)
            assert said(hub, fields) == TAKEN
            assert said(b, fields) == TAKEN
            assert said(a, {**fields, "path": "/x"}) == REFUSED
        postgresql_site.check_success(a.await_final(jobs))
        postgresql_site.check_settled()
    finally:
        staging.stop()


def _open_requests(staging: Staging, site: Site) -> list[Any]:
    """The requests of jobs that wait for their report: one, as there is one slot."""
    waiting = {
        row.subject for row in site.rows("SELECT subject FROM work WHERE lane = 'transfers.stage' AND state = 'parked'")
    }
    return [each for each in staging.seen("asked") if each["job_id"] in waiting]
