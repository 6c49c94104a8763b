"""The whole hub and FTS servers with bad manners: what they keep from it passes, and nobody else's transfers wait."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from tests.gridftp import Authority
from tests.whole.daemon import Daemon, crashing, until
from tests.whole.site import FILE, TREE, Site
from tests.whole.test_grid import FtsProcess

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

SCHEMES = ("gsiftp", "davs", "root", "https")
PATIENT = 100.0


class Server(FtsProcess):
    """An FTS server, of which is told how much it was asked."""

    def options(self) -> dict[str, str]:
        """Give what the hub needs to know to hand over to it."""
        certificate, key = map(str, self.own)
        trust = str(self.authority.pem)
        return {"certificate": certificate, "key": key, "ca": trust, "source": "gsiftp://hub.example.org"}

    def count(self) -> int:
        """Give how much it was asked."""
        with urlopen(f"{self.url}/fake/count", context=self._context, timeout=10) as answer:
            return int(json.load(answer)["asked"])

    def await_asked(self, count: int) -> None:
        """Wait until it was asked so much in all."""
        until(lambda: self.count() >= count, f"{self.url} is asked {count} times")

    def await_job(self) -> None:
        """Wait until it has a job."""
        until(lambda: self.seen()["jobs"], f"{self.url} has a job")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give who signs all certificates here."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def servers(authority: Authority) -> Iterator[dict[str, Server]]:
    """Give an FTS server for each scheme."""
    found = {scheme: Server(authority) for scheme in SCHEMES}
    for each in found.values():
        each.start()
    yield found
    for each in found.values():
        each.stop()


def hub(site: Site, servers: dict[str, Server]) -> Daemon:
    """Configure a hub that hands over to all of them."""
    options = {f"transfers.mover_options.{scheme}": each.options() for scheme, each in servers.items()}
    movers = {scheme: f"fts+{each.url}" for scheme, each in servers.items()}
    return site.hub(sections={"transfers.movers": movers, **options})


@pytest.mark.parametrize(
    "manners", [("hang", "reset", "broken"), ("half", "drips", "page"), ("lies", "others", "odd")], ids="-".join
)
def test_bad_manners(site, servers, manners):
    """Of three servers each hangs, drips, resets, is in trouble or lies, while jobs are there and further ones come.

    What goes to the fourth is delivered meanwhile; the others' when they are well again, each file copied once.
    """
    *bad, (_, good) = servers.items()
    for _, server in bad:
        server.tell("waits")
    daemon = hub(site, servers)
    daemon.start(
        crashing("datahub.transfers.movers.fts_wire:ANSWER:set:2", "datahub.transfers.following:AWAY:set:1000")
    )
    jobs = [daemon.submit(TREE, f"{scheme}://there.example.org/first") for scheme, _ in bad]
    for _, server in bad:
        server.await_job()
    asked = []
    for (scheme, server), manner in zip(bad, manners, strict=True):
        server.tell(manner)
        asked.append(server.count())
        jobs.append(daemon.submit(FILE, f"{scheme}://there.example.org/second"))
    others = [daemon.submit(FILE, f"https://there.example.org/{number}") for number in range(5)]
    assert {each["status"] for each in daemon.await_final(others)} == {"SUCCESS"}
    for (_, server), before in zip(bad, asked, strict=True):
        server.await_asked(before + 2)
    assert {daemon.status(each)["status"] for each in jobs} <= {"STAGING", "TRANSFERRING"}
    for _, server in bad:
        server.tell("works")
    for seen in daemon.await_final(jobs, PATIENT):
        assert seen["status"] == "SUCCESS", seen
    for server in servers.values():
        assert {len(copies) for copies in server.seen()["copied"].values()} == {1}
    assert len(good.seen()["copied"]) == len(others)
    assert site.rows("SELECT * FROM fts_job") == []
    assert daemon.call("GET", "/summary").json["transfers"]["unknown_reasons"] == {"count": 0}
    daemon.stop()
    assert "internal fault" not in daemon.log
