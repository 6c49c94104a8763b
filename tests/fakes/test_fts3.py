"""The fake FTS3 is taken for one by FTS's own client; what the hub's tests need beyond that is right in itself."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from twisted.internet.utils import getProcessOutputAndValue

from tests.fakes.fts3 import TIMED_OUT, FakeFts, listen
from tests.fakes.fts3_jobs import BASE, EXISTS
from tests.gridftp import Authority
from tests.servers import MISSING, services_required

CLIENT = Path(__file__).with_name("fts3_client.py")
PACKAGE = "fts3==3.14.2"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a Python with FTS's client: on top of the distribution's M2Crypto, which PyPI has in source only."""
    folder = tmp_path_factory.mktemp("client")
    found = str(folder / "bin" / "python")
    commands = [
        ["/usr/bin/python3", "-c", "import M2Crypto, requests"],
        ["/usr/bin/python3", "-m", "venv", "--system-site-packages", str(folder)],
        [found, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", PACKAGE],
    ]
    for each in commands:
        done = subprocess.run(each, capture_output=True, check=False, text=True, timeout=100)
        if done.returncode:
            text = f"{MISSING}FTS's own client ({done.stderr.strip()[-300:]}); see .ci/run for the packages"
            if services_required():
                pytest.fail(text, pytrace=False)
            pytest.skip(text)
    return found


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_fts_own_client_takes_it_for_fts(python, reactor, tmp_path):
    """It delegates by its own code, submits, looks, cancels, and hears of every error as it expects."""
    authority, fake = Authority(tmp_path), FakeFts(manner="works", reports=True)
    certificate, key = authority.issue("server", server=True)
    listening = listen(fake, certificate, key, authority.pem, reactor)
    own = [str(each) for each in authority.issue("robot")]
    url = f"https://localhost:{listening.getHost().port}"
    out, err, code = await getProcessOutputAndValue(
        # -I: not the fake, which has the client's name and lies beside it.
        python,
        ["-I", str(CLIENT), url, *own, str(authority.folder), str(authority.pem)],
        env={"PATH": "/usr/bin"},
        reactor=reactor,
    )
    await listening.stopListening()
    assert code == 0, err.decode()
    seen = json.loads(out)
    number = seen["whoami"]["delegation_id"]
    assert seen["delegation"] == number
    assert fake.delegations[number].count == 1
    assert (seen["undelegated"], seen["again"], seen["bad"]) == ("NeedDelegation", "ClientError", "ClientError")
    one, own_id = seen["ids"]
    assert own_id == str(uuid5(uuid5(BASE, number), "the-sid"))
    assert UUID(one) != UUID(own_id)
    assert (seen["status"]["job_state"], len(seen["status"]["files"])) == ("ACTIVE", 2)
    assert [each["job_id"] for each in seen["many"]] == seen["ids"]
    assert (seen["unknown"], seen["end"]) == ("NotFound", "FINISHED")
    assert [each["job_state"] for each in seen["cancelled"]] == ["CANCELED", "CANCELED"]
    assert [each["http_status"] for each in seen["cancelled"]] == ["200 Ok", "304 Not Modified"]
    assert (seen["mixed"], seen["uncancelled"], seen["purged"], seen["nowhere"]) == (
        "ClientError",
        "NotFound",
        "NotFound",
        "NotFound",
    )
    failed, dirty = seen["FAILED"], seen["FINISHED"]
    assert (failed["job_state"], dirty["job_state"]) == ("FAILED", "FINISHEDDIRTY")
    assert [each["file_state"] for each in dirty["files"]] == ["FINISHED", "FAILED"]
    assert dirty["files"][1]["reason"] == TIMED_OUT
    assert (seen["archived"]["job_id"], seen["archived"]["job_state"]) == (dirty["job_id"], "FINISHEDDIRTY")
    (in_the_way,) = seen["reported"]["files"]
    assert (in_the_way["file_state"], in_the_way["reason"]) == ("FAILED", EXISTS)
    assert in_the_way["file_metadata"]["dst_file"]["file_size"] == 1000
