"""The client of FTS3 against a server at the wire: over TLS with certificates, delegation with real signatures."""

from __future__ import annotations

import time

import pytest
import pytest_twisted
from twisted.logger import capturedLogs, formatEvent

from datahub.errors import FinalFault, PassingFault
from datahub.transfers.movers import fts_wire
from datahub.transfers.movers.fts import Hidden, Job, JobFile, Refused, TooLarge, Unknown
from datahub.transfers.movers.fts_jobs import conclude
from datahub.transfers.movers.proxies import Papers
from tests.gridftp import Authority
from tests.transfers.movers.fts_place import FILE, client, closed, job, opened


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give who signs all certificates here."""
    return Authority(tmp_path_factory.mktemp("fts"))


@pytest_twisted.async_yield_fixture()
async def place(authority, reactor):
    """Give a server that has nothing yet."""
    place = opened(authority, reactor)
    yield place
    await closed(place)


async def test_a_job_from_its_submission_to_its_end(place):
    """A proxy is delegated once; the id is the one that was expected; states and files are told."""
    expected = await place.fts.id_of("s1")
    assert await place.fts.submit(job()) == expected
    await place.fts.submit(job("s2"))
    assert [each.count for each in place.fake.delegations.values()] == [1]
    (told,) = await place.fts.look([expected])
    assert (told.job_id, told.job_state, told.known) == (expected, "SUBMITTED", True)
    place.fake.run(expected)
    place.fake.finish(expected)
    (told,) = await place.fts.look([expected])
    assert (told.job_state, told.files[0].file_state, told.files[0].filesize) == ("FINISHED", "FINISHED", 5)
    with pytest.raises(Refused, match="duplicated"):
        await place.fts.submit(job())


async def test_connections_are_not_worth_a_line(place):
    """A job is asked about every few seconds, for days."""
    with capturedLogs() as logs:
        await place.fts.look(["1"])
    assert [each for each in logs if "factory" in each.get("log_format", "")] == []


async def test_many_jobs_in_one_request(place):
    """Those that are not known there are told apart."""
    one, two = [await place.fts.submit(job(sid)) for sid in ("s1", "s2")]
    place.fake.asked.clear()
    found = {each.job_id: each for each in await place.fts.look([one, "gone", two])}
    assert [found[each].known for each in (one, "gone", two)] == [True, False, True]
    assert len(place.fake.asked) == 1
    assert not (await place.fts.look(["gone"]))[0].known


async def test_what_was_purged_is_in_the_archive(place):
    """If the server has one."""
    one = await place.fts.submit(job())
    place.fake.finish(one)
    place.fake.purge(one)
    assert not (await place.fts.look([one]))[0].known
    assert (await place.fts.recall(one)).job_state == "FINISHED"
    with pytest.raises(Unknown):
        await place.fts.recall("gone")


async def test_a_job_is_cancelled(place):
    """One that has ended can't be any more, which is no fault."""
    one = await place.fts.submit(job())
    await place.fts.cancel(one)
    await place.fts.cancel(one)
    assert place.fake.jobs[one]["job_state"] == "CANCELED"
    with pytest.raises(Unknown):
        await place.fts.cancel("gone")


async def test_a_proxy_that_expires_is_renewed(place):
    """Two hours before its end; or when the server says that it has none, be it that it was deleted there."""
    await place.fts.delegate()
    (delegated,) = place.fake.delegations.values()
    until = delegated.until
    assert abs(until - time.time() - 7 * 3600) < 100
    await place.fts.delegate()
    assert delegated.count == 1
    place.fts._wire._clock.set(int((until - 2 * 3600 + 5) * 1000), 0)
    place.fake.now = lambda: until - 2 * 3600 + 5
    await place.fts.delegate()
    assert delegated.count == 2
    place.fake.delegations.clear()
    await place.fts.submit(job())
    assert [each.count for each in place.fake.delegations.values()] == [1]


async def test_a_proxy_delegates(place, reactor):
    """The hub may itself have no more than a proxy."""
    papers = Papers(proxy=place.authority.proxy("robot", name="robot"))
    fts = client(place.authority, place.port, papers, reactor)
    await fts.submit(job())
    await fts.stop()
    assert len(place.fake.jobs) == 1


async def test_credentials_that_have_expired(place, reactor):
    """Nothing is asked; the file and the time are named."""
    papers = Papers(proxy=place.authority.proxy("robot", seconds=60, began=-3600, name="late"))
    fts = client(place.authority, place.port, papers, reactor)
    with pytest.raises(PassingFault, match=r"late.pem have expired at"):
        await fts.whoami()
    await fts.stop()
    assert place.fake.asked == []


@pytest.mark.parametrize(
    ("manner", "told"),
    [
        ("hang", "is silent: the answer of .* took longer than 0.5 s"),
        ("half", "is silent"),
        ("reset", "can't be reached"),
        ("broken", "answered 503: Service Unavailable"),
        ("lies", "does not say"),
    ],
)
async def test_a_server_in_trouble(place, manner, told, monkeypatch):
    """Whatever it does, it is waited for no longer than a while, and it is said what it did."""
    await place.fts.delegate()
    monkeypatch.setattr(fts_wire, "ANSWER", 0.5)
    place.fake.manner = manner
    for asking in (place.fts.submit(job()), place.fts.look(["1"]), place.fts.look(["1", "2"])):
        with pytest.raises(PassingFault, match=told):
            await asking
    place.fake.manner = "waits"
    await place.fts.submit(job())


@pytest.mark.parametrize("manner", ["huge", "endless"])
async def test_an_answer_that_is_too_large(place, manner, monkeypatch):
    """It is left where it becomes so, whether it said how large it is or not; the next answer is as good as ever."""
    one = await place.fts.submit(job())
    monkeypatch.setattr(fts_wire, "LARGEST", 64 * 1024)
    place.fake.manner = manner
    for asking in (place.fts.look([one]), place.fts.look([one, "2"]), place.fts.recall(one)):
        with pytest.raises(TooLarge, match="gives an answer of more than 65536 bytes"):
            await asking
    assert place.fake.sent < 16 * 1024 * 1024
    place.fake.manner = "waits"
    assert (await place.fts.look([one]))[0].known


async def test_less_is_asked_for_of_a_large_job(place, monkeypatch):
    """Where it is the reasons that are too long, files and their states are told; else the state of the job."""
    one = await place.fts.submit(
        {**job(), "files": [{**FILE, "destinations": [f"gsiftp://b/{each}"]} for each in "123"]}
    )
    place.fake.finish(one, "FINISHED", "FAILED", reason="x" * 10_000)
    monkeypatch.setattr(fts_wire, "LARGEST", 8 * 1024)
    (found,) = await place.fts.look([one])
    assert [(each.file_state, each.reason) for each in found.files] == [("FINISHED", None), *[("FAILED", None)] * 2]
    end = conclude(found)
    assert end is not None
    assert (end.told, end.unknown) == ("2 of 3 files failed: FTS has told no reason", None)
    with pytest.raises(TooLarge):
        await place.fts.look([one, one])
    monkeypatch.setattr(fts_wire, "LARGEST", 1300)
    (found,) = await place.fts.look([one])
    assert (found.job_state, found.files) == ("FINISHEDDIRTY", [])


async def test_who_is_not_let_in(place, reactor):
    """Whoever it is that refuses the hub: it passes. What FTS itself says of a job is final."""
    for manner, told in (("banned", "403: The user has been banned; is .*hub.pem"), ("lost", "404: Not Found")):
        place.fake.manner = manner
        with pytest.raises(PassingFault, match=f"answered {told}"):
            await place.fts.whoami()
    place.fake.manner = "waits"
    await place.fts.delegate()
    place.fake.manner = "banned"
    with pytest.raises(PassingFault, match="answered 403: The user has been banned"):
        await place.fts.submit(job())
    place.fake.manner = "waits"
    with pytest.raises(FinalFault, match=r"answered 400: No valid pairs available"):
        await place.fts.submit({"files": [], "params": {}})
    place.fake.manner = "strangers"
    fts = client(place.authority, place.port, Papers(*place.authority.issue("hub")), reactor)
    with pytest.raises(PassingFault, match="has seen no certificate of the hub's"):
        await fts.whoami()
    await fts.stop()


async def test_a_storage_that_is_banned(place):
    """It is away for a while, which is no fault of the transfer."""
    place.fake.banned.add("gsiftp://b")
    with pytest.raises(PassingFault, match=r"answered 403: gsiftp://b is banned"):
        await place.fts.submit(job())


async def test_another_transfer_to_the_same_place(place):
    """It is told in the server's words, but without the statements of its database."""
    place.fake.checks_duplicates = True
    await place.fts.submit(job("s1"))
    with pytest.raises(Refused, match=r"^The submission is duplicated$"):
        await place.fts.submit(job("s2"))


async def test_jobs_of_somebody_else(place, reactor):
    """That they are not shown is told apart from that there are none."""
    one = await place.fts.submit(job())
    other = client(place.authority, place.port, Papers(*place.authority.issue("other")), reactor)
    (alone,) = await other.look([one])
    among, none = await other.look([one, "gone"])
    assert [(each.known, each.hidden) for each in (alone, among, none)] == [
        (False, True),
        (False, True),
        (False, False),
    ]
    with pytest.raises(Hidden, match="Not enough permissions to check the job"):
        await other.cancel(one)
    place.fake.finish(one)
    place.fake.purge(one)
    with pytest.raises(Hidden, match="does not show the hub its old job: Not enough permissions"):
        await other.recall(one)
    await other.stop()


async def test_answers_that_are_not_about_jobs(place):
    """A page of whatever stands before the server says nothing of a job: it may be there."""
    place.fake.manner = "lost"
    for asking in (place.fts.look(["1"]), place.fts.cancel("1"), place.fts.recall("1")):
        with pytest.raises(PassingFault, match="answered 404: Not Found"):
            await asking


@pytest.mark.parametrize(("manner", "code"), [("banned", 403), ("unknown_caller", 401)])
async def test_what_the_hub_is_refused(place, manner, code):
    """A page about the caller says nothing of a job, which goes on: it is told once, until somebody is let in again."""
    one = await place.fts.submit(job())

    async def refused() -> None:
        place.fake.manner = manner
        for asking in (place.fts.look([one]), place.fts.look([one, "2"]), place.fts.recall(one), place.fts.cancel(one)):
            with pytest.raises(PassingFault, match=f"answered {code}: (The user has been|A valid X509)") as caught:
                await asking
            assert not isinstance(caught.value, Hidden)
        place.fake.manner = "waits"
        assert (await place.fts.look([one]))[0].job_state == "SUBMITTED"

    with capturedLogs() as events:
        await refused()
        await refused()
    told = [formatEvent(each) for each in events]
    assert len([each for each in told if "the hub is not let in, its jobs there go on unseen" in each]) == 2


@pytest.mark.parametrize("body", [b'{"job_id": "2", "http_status": "404 Not Found"}', b'["404"]', b'{"job_id": 1}'])
async def test_an_answer_about_something_else(place, body, monkeypatch):
    """A 404 counts only if it names the job that was asked about."""

    async def ask(*_: object) -> fts_wire.Asked:
        return fts_wire.Asked(404, body)

    monkeypatch.setattr(place.fts, "_ask", ask)
    for asking in (place.fts.look(["1"]), place.fts.cancel("1")):
        with pytest.raises(PassingFault, match="answered 404"):
            await asking


async def test_an_answer_about_another_job(place, monkeypatch):
    """It is taken for no answer; among many, those go on of which something is said."""
    bodies = [b'{"job_id": "2", "job_state": "FINISHED"}'] * 2 + [b"[]", b'[{"job_id": "2"}, {"job_id": "3"}]']

    async def ask(*_: object) -> fts_wire.Asked:
        return fts_wire.Asked(200, bodies.pop(0))

    monkeypatch.setattr(place.fts, "_ask", ask)
    for asking in (place.fts.look(["1"]), place.fts.recall("1"), place.fts.look(["1"])):
        with pytest.raises(PassingFault, match="says nothing of 1, which it was asked about"):
            await asking
    assert [each.job_id for each in await place.fts.look(["1", "2"])] == ["2"]


@pytest.mark.parametrize(
    ("code", "body", "passes"),
    [
        (400, b'{"status": "400 Bad Request", "message": "No file"}', False),
        (400, b"<html>The SSL certificate error</html>", True),
        (404, b"<html>Not Found</html>", True),
        (413, b"<html>Request Entity Too Large</html>", False),
        (424, b'{"message": "VOMS"}', True),
        (500, b'{"message": "oops"}', True),
    ],
)
async def test_what_ends_a_submission(place, code, body, passes, monkeypatch):
    """What FTS says of the job, and that it is too large; what else stands there speaks of the hub."""
    await place.fts.delegate()

    async def ask(*_: object) -> fts_wire.Asked:
        return fts_wire.Asked(code, body)

    monkeypatch.setattr(place.fts, "_ask", ask)
    with pytest.raises(PassingFault if passes else FinalFault, match=f"answered {code}"):
        await place.fts.submit(job())


async def test_a_job_that_waits_for_tape(place):
    """Before, between and after its copies it goes on; the other hops of one that has some wait for the first."""
    one = await place.fts.submit(job("tape", bring_online=600, archive_timeout=600))
    steps = [place.fake.stage, place.fake.stage, place.fake.schedule, place.fake.run, place.fake.finish]
    states = []
    for step in (lambda _: None, *steps):
        step(one)
        (told,) = await place.fts.look([one])
        states.append((told.job_state, told.files[0].file_state))
        assert conclude(told) is None
    assert states == [
        ("STAGING", "STAGING"),
        ("STAGING", "STARTED"),
        ("SUBMITTED", "SUBMITTED"),
        ("READY", "READY"),
        ("ACTIVE", "ACTIVE"),
        ("ARCHIVING", "ARCHIVING"),
    ]
    place.fake.finish(one)
    (told,) = await place.fts.look([one])
    assert (told.job_state, place.fake.copied) == ("FINISHED", {"gsiftp://b/1": [one]})
    assert conclude(told) is not None


async def test_a_job_of_hops(place):
    """What comes after a failed hop is never used, and the job is over."""
    hops = {**job("hops", multihop=True)}
    hops["files"] = [*hops["files"], {**hops["files"][0], "destinations": ["gsiftp://c/1"]}]
    two = await place.fts.submit(hops)
    assert [each["file_state"] for each in place.fake.jobs[two]["files"]] == ["SUBMITTED", "NOT_USED"]
    place.fake.finish(two, "FAILED", reason="TRANSFER [110] Connection timed out")
    (told,) = await place.fts.look([two])
    assert (told.job_state, [each.file_state for each in told.files]) == ("FAILED", ["FAILED", "NOT_USED"])
    end = conclude(told)
    assert end is not None
    assert [each.dest_surl for each in end.failures] == ["gsiftp://b/1", "gsiftp://c/1"]


async def test_a_server_that_is_somebody_else(place, reactor, tmp_path):
    """Its certificate is of another authority: nothing is sent to it."""
    other = Authority(tmp_path / "other")
    fts = client(other, place.port, Papers(*place.authority.issue("hub")), reactor)
    with pytest.raises(PassingFault, match=r"can't be reached: .*certificate verify failed"):
        await fts.whoami()
    await fts.stop()
    assert place.fake.asked == []


def test_the_end_of_a_large_job():
    """Is found by going through its files once: a pass for each file would take minutes."""
    files = [JobFile(file_state="FINISHED", dest_surl=f"gsiftp://x/{n}", filesize=2) for n in range(100_000)]
    failed = JobFile(file_state="FAILED", reason="TRANSFER [5] broken")
    end = conclude(Job(job_id="1", job_state="FINISHEDDIRTY", files=[*files, failed]))
    assert end is not None
    assert (end.files, end.size, end.failures) == (100_000, 200_000, (failed,))


def test_a_job_that_is_told_without_its_files():
    """Has ended as its state says."""
    end = conclude(Job(job_id="1", job_state="FINISHED"))
    assert end is not None
    assert end.failures == ()
    end = conclude(Job(job_id="1", job_state="FAILED", reason="broken"))
    assert end is not None
    assert [each.reason for each in end.failures] == ["broken"]
