"""The hub's main job as its callers see it, by the real curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest

from tests.servers import MISSING, services_required
from tests.whole.daemon import Daemon, crashing, until
from tests.whole.site import BIG, FILE, TREE, Site, opened

TOKENS = {"alice": ["read", "write"], "bob": ["read", "write"], "reader": ["read"], "operator": ["admin"]}
OLD_FIELDS = {"job_id", "product_id", "status", "detailed_status", "destination_path", "submitter", "stager_path"}
OLD_FIELDS |= {"stager_status", "time_submitted", "time_staging", "time_transferring", "time_success"}


@dataclass(frozen=True)
class Reply:
    """What curl got."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Curl:
    """curl, calling one hub."""

    daemon: Daemon

    def __call__(self, path: str, *options: str, token: str = "") -> Reply:
        """Call ``path``."""
        credentials = ["-H", f"Authorization: Bearer {token}"] if token else []
        url = f"http://localhost:{self.daemon.port}{path}"
        command = ["curl", "-sS", "-i", "--max-time", "20", url, *credentials, *options]
        said = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()
        head, _, text = said.partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return Reply(int(first.split()[1]), headers, text)

    def submit(self, product: str, destination: str, *options: str, token: str = "") -> Reply:
        """Submit a transfer the way the prototype's README does."""
        fields = ["-d", f"product_id={product}", "-d", f"destination_path={destination}"]
        return self("/submitTransfer", *fields, *options, token=token)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Give a site that the tests of this file share."""
    with opened("sqlite", tmp_path_factory.mktemp("main")) as site:
        yield site


@pytest.fixture(scope="module")
def curl(site: Site) -> Curl:
    """Give curl, and a hub with callers by token; those without may read and write."""
    if shutil.which("curl") is None:
        (pytest.fail if services_required() else pytest.skip)(f"{MISSING}curl; install it")
    daemon = site.hub()
    with daemon.config.open("a") as config:
        for name, scopes in TOKENS.items():
            config.write(f'[auth.tokens.{name}]\nhash = "sha256:{digest(name)}"\nscopes = {json.dumps(scopes)}\n')
    daemon.start()
    return Curl(daemon)


def token(name: str) -> str:
    return f"the token of {name}, which is long".replace(" ", "-")


def digest(name: str) -> str:
    return sha256(token(name).encode()).hexdigest()


def test_the_two_calls_of_the_prototype(site: Site, curl: Curl) -> None:
    """Submit and status, with the prototype's fields, texts and codes."""
    answer = curl.submit(FILE, site.destination())
    assert (answer.status, answer.headers["content-type"]) == (202, "application/json")
    assert answer.text.endswith("}\n")
    job = answer.json.pop("job_id")
    assert str(UUID(job)) == job
    assert answer.json == {"job_id": job, "error": False, "msg": "Job submission processed successfully"}
    assert answer.headers["location"] == f"/transfers/{job}"
    site.check_success(curl.daemon.await_final([job]))
    status = curl(f"/transferStatus?job_id={job}")
    assert (status.status, status.headers["content-type"]) == (200, "application/json")
    assert set(status.json) >= OLD_FIELDS
    assert not {name for name, value in status.json.items() if value is None}
    assert curl(f"/transfers/{job}").json == status.json


def test_the_line_of_the_prototypes_readme(curl: Curl) -> None:
    """No mover for gsiftp is here yet: the answer names the schemes that have one."""
    answer = curl.submit("005", "gsiftp://ubuntu@deliv-prot2.cyberska.org/home/ubuntu")
    assert answer.status == 400
    assert (answer.json["job_id"], answer.json["error"]) == (None, True)
    assert "destination_path" in answer.json["msg"]
    assert answer.json["msg"].endswith("a mover here: file://")


@pytest.mark.parametrize("form", ["urlencoded", "multipart", "query", "json"])
def test_forms_of_a_submission(site: Site, curl: Curl, form: str) -> None:
    """All ways to give the parameters come to the same."""
    place = site.destination()
    fields = {"product_id": FILE, "destination_path": place, "overwrite": "true"}
    pairs = [f"{name}={value}" for name, value in fields.items()]
    options = {
        "urlencoded": [part for pair in pairs for part in ("--data-urlencode", pair)],
        "multipart": [part for pair in pairs for part in ("-F", pair)],
        "query": ["-X", "POST"],
        "json": ["--json", json.dumps({**fields, "overwrite": True})],
    }[form]
    answer = curl("/submitTransfer" + ("?" + "&".join(pairs) if form == "query" else ""), *options)
    assert answer.status == 202, answer
    site.check_success(curl.daemon.await_final([answer.json["job_id"]]))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "Form did not specify product_id"),
        ({"destination_path": "file:///x"}, "Form did not specify product_id"),
        ({"product_id": FILE}, "Form did not specify destination_path"),
        ({"product_id": FILE, "destination_path": "/plain/path"}, "destination_path '/plain/path' must be a URL"),
        ({"product_id": FILE, "destination_path": "file:///etc"}, "destination_path 'file:///etc'"),
        ({"product_id": FILE, "destination_path": "file://{deliveries}/../x"}, "'.' or '..'"),
        ({"product_id": "../secret", "destination_path": "file://{deliveries}"}, "product_id"),
        ({"product_id": "/etc/passwd", "destination_path": "file://{deliveries}"}, "product_id"),
        ({"product_id": FILE, "destination_path": "file://{deliveries}", "colour": "red"}, "colour"),
        ({"product_id": FILE, "destination_path": "file://{deliveries}", "overwrite": "perhaps"}, "overwrite"),
        ({"product_id": FILE, "destination_path": "file://{deliveries}", "checksum": "MD5:12"}, "checksum 'MD5:12'"),
    ],
)
def test_submission_that_is_wrong(site: Site, curl: Curl, fields: dict[str, str], told: str) -> None:
    """400 in the prototype's shape; the text names the field."""
    before = site.rows("SELECT count(*) FROM transfer")
    pairs = [f"{name}={value.format(deliveries=site.deliveries)}" for name, value in fields.items()]
    answer = curl("/submitTransfer", "-X", "POST", *[part for pair in pairs for part in ("-d", pair)])
    assert answer.status == 400
    assert set(answer.json) == {"job_id", "error", "msg"}
    assert (answer.json["job_id"], answer.json["error"]) == (None, True)
    assert told in answer.json["msg"]
    assert site.rows("SELECT count(*) FROM transfer") == before


def test_status_that_is_wrong(curl: Curl) -> None:
    """400 without an id, 404 for one that is not there, 405 for another method, each as JSON."""
    missing = curl("/transferStatus")
    assert (missing.status, missing.json) == (400, {"msg": "No job ID specified", "error": True})
    unknown = curl("/transferStatus?job_id=nobody")
    assert (unknown.status, unknown.json) == (404, {"msg": "job_id nobody not found"})
    assert curl("/transferStatus", "-d", "job_id=1").status == 405
    method = curl("/submitTransfer")
    assert (method.status, method.headers["allow"]) == (405, "POST")
    nothing = curl("/transfers/of/nothing")
    assert (nothing.status, nothing.headers["content-type"]) == (404, "application/problem+json")


def test_tokens(site: Site, curl: Curl) -> None:
    """401 for a bad token, 403 for a scope that lacks or a stranger's transfer; `admin` may all."""
    place = site.destination()
    assert curl.submit(FILE, place, token="wrong").status == 401
    refused = curl.submit(FILE, place, token=token("reader"))
    assert (refused.status, refused.json["job_id"]) == (403, None)
    answer = curl.submit(FILE, place, token=token("alice"))
    job = answer.json["job_id"]
    own = curl(f"/transferStatus?job_id={job}", token=token("alice"))
    assert (own.status, own.json["submitter"]) == (200, "alice")
    strange = curl(f"/transferStatus?job_id={job}", token=token("bob"))
    assert strange.status == 403
    assert strange.json == {"msg": f"'bob' does not match submitter for transfer {job}"}
    assert curl(f"/transfers/{job}", "-X", "DELETE", token=token("bob")).status == 403
    assert curl(f"/transfers/{job}").status in {401, 403}
    assert curl(f"/transfers/{job}", token=token("operator")).status == 200
    assert curl("/whoami", token=token("alice")).json["name"] == "alice"


def test_same_key_twice_at_once(site: Site, curl: Curl) -> None:
    """Two callers with one Idempotency-Key get one transfer; another request with it is a conflict."""
    place = site.destination()
    with ThreadPoolExecutor(8) as callers:
        calls = [callers.submit(curl.submit, FILE, place, "-H", "Idempotency-Key: one") for _ in range(8)]
    assert {call.result().status for call in calls} == {202}
    (job,) = {call.result().json["job_id"] for call in calls}
    assert site.rows(f"SELECT count(*) FROM transfer WHERE destination_path = '{place}'") == [(1,)]
    site.check_success(curl.daemon.await_final([job]))
    other = curl.submit(TREE, place, "-H", "Idempotency-Key: one")
    assert (other.status, other.json["job_id"], other.headers["x-datahub-error"]) == (409, None, "request.key_reused")


def test_cancel(site: Site, curl: Curl) -> None:
    """What waits is cancelled at once, what runs is stopped and undone, what has ended can't be any more."""
    daemon = curl.daemon
    daemon.kill()
    daemon.start(crashing("datahub.transfers.pipeline:Pipeline._count:pause:3"))
    running = [curl.submit(BIG, site.destination()).json["job_id"] for _ in range(3)]
    until(lambda: len(site.leftovers()) == 3, "three copies under way")
    waiting = curl.submit(FILE, site.destination()).json["job_id"]
    until(lambda: daemon.status(waiting).get("waiting_on", {}).get("what") == "slot", "one that waits")
    first = curl(f"/transfers/{waiting}", "-X", "DELETE")
    assert (first.status, first.json["status"]) == (200, "CANCELLED")
    second = curl(f"/transfers/{running[0]}", "-X", "DELETE")
    assert (second.status, second.json["status"]) == (202, "CANCELLING")
    shown = daemon.await_status(running[0], "CANCELLED")
    assert "time_cancelled" in shown
    assert not site.delivered(shown).exists()
    again = curl(f"/transfers/{running[0]}", "-X", "DELETE")
    assert (again.status, again.json["status"]) == (200, "CANCELLED")
    site.check_success(daemon.await_final(running[1:]))
    late = curl(f"/transfers/{running[1]}", "-X", "DELETE")
    assert (late.status, late.headers["x-datahub-error"]) == (409, "transfer.too_late")
    assert curl("/transfers/nobody", "-X", "DELETE").status == 404
    site.check_settled()
