"""A site for whole hubs: an archive, a folder for deliveries, a database, and what must hold of them in the end."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.servers import fresh_database
from tests.whole.daemon import Daemon, Sections, free_port, write_toml

__all__ = ["SLOTS", "Site", "opened", "overlap", "same"]

SLOTS = 3
"""Products staged at once, and products moved at once."""

MIB = 1024 * 1024
FILE, TREE, BIG, EMPTY, BIG_TREE = "catalogue.fits", "observation", "cube.bin", "empty", "cubes"


class Site:
    """The folders and daemons of one test; `close` ends all its processes."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self.folder = folder
        self.archive = folder / "archive"
        self.deliveries = folder / "deliveries"
        self.database = database or f"sqlite:///{folder / 'datahub.sqlite'}"
        self.daemons: list[Daemon] = []
        self._numbers = iter(range(1000))
        self.deliveries.mkdir()
        _fill(self.archive)

    def hub(
        self,
        node: str = "hub1",
        sections: Sections | None = None,
        environ: Mapping[str, str] | None = None,
        state: str = "",
        listens: Sequence[str] | None = None,
    ) -> Daemon:
        """Configure one more hub; ``sections`` go over what all of them have."""
        port = free_port()
        config = self.folder / f"{node}-{len(self.daemons)}.toml"
        merged = self.sections(node, state or node)
        for name, keys in (sections or {}).items():
            merged[name] = {**merged.get(name, {}), **keys}
        write_toml(config, merged, [f"tcp:{port}:interface=127.0.0.1"] if listens is None else listens)
        self.daemons.append(Daemon(config, port, environ))
        return self.daemons[-1]

    def sections(self, node: str, state: str) -> dict[str, dict[str, Any]]:
        """Give the configuration that all hubs of a site have."""
        return {
            "hub": {"state": str(self.folder / "state" / state), "node": node, "min_free": "1 MB", "drain": "10 s"},
            "database": {"url": self.database},
            "archive": {"url": self.archive.as_uri()},
            "auth": {"anonymous": ["read", "write"]},
            "transfers": {"staging_concurrent": SLOTS, "moving_concurrent": SLOTS},
            "transfers.movers": {"file": f"local:{self.deliveries}"},
        }

    def close(self) -> None:
        """Leave no process."""
        for daemon in self.daemons:
            daemon.close()

    def destination(self) -> str:
        """Give a folder to which nothing was delivered yet, as a URL."""
        return (self.deliveries / f"{next(self._numbers):03}").as_uri()

    def submit(self, daemon: Daemon, product: str, **more: str) -> str:
        """Submit ``product`` to a destination of its own."""
        return daemon.submit(product, self.destination(), **more)

    def rows(self, statement: str) -> list[Any]:
        """Ask the database."""
        engine = create_engine(self.database, poolclass=NullPool)
        try:
            with engine.connect() as connection:
                return list(connection.execute(text(statement)))
        finally:
            engine.dispose()

    def write(self, statement: str) -> None:
        """Change the database behind the hubs' backs."""
        engine = create_engine(self.database, poolclass=NullPool)
        try:
            with engine.begin() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()

    def running(self, lane: str) -> int:
        """Count the items under way in a lane."""
        return len(self.rows(f"SELECT id FROM work WHERE state = 'running' AND lane = 'transfers.{lane}'"))

    def delivered(self, job: Mapping[str, Any]) -> Path:
        """Say where the product of a transfer belongs."""
        return Path(job["destination_path"].removeprefix("file://")) / Path(job["product_id"]).name

    def leftovers(self) -> list[Path]:
        """List what lies under temporary names."""
        return list(self.deliveries.rglob(".datahub-*"))

    def check_nothing_partial(self) -> None:
        """Whatever has a final name is whole."""
        for folder in self.deliveries.iterdir():
            for found in folder.iterdir():
                assert found.name.startswith(".datahub-") or same(self.archive / found.name, found), found

    def check_success(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """Each of ``jobs`` (what the hub tells of it) has succeeded and its product is there, alone and right."""
        for job in jobs:
            assert job["status"] == "SUCCESS", job
            place = self.delivered(job)
            assert [each.name for each in place.parent.iterdir()] == [place.name]
            assert same(self.archive / job["product_id"], place), place

    def check_settled(self) -> None:
        """Nothing is left to do, and nothing lies about."""
        assert self.rows("SELECT * FROM work") == []
        assert self.leftovers() == []
        self.check_nothing_partial()

    def check_slots(self, daemon: Daemon) -> None:
        """A batch of products is staged and moved with all slots, and never with more."""
        jobs = [self.submit(daemon, BIG) for _ in range(2 * SLOTS)]
        seen = daemon.await_final(jobs)
        self.check_success(seen)
        assert overlap(seen) == SLOTS


@contextmanager
def opened(engine: str, folder: Path) -> Iterator[Site]:
    """Give a site on a new database of ``engine``; in the end its daemons are gone."""
    with fresh_database(engine, folder) as url:
        site = Site(folder, url)
        try:
            yield site
        finally:
            site.close()


def _fill(archive: Path) -> None:
    """Make products of each kind; the content of all is the same in every run."""
    chance = random.Random(1)
    archive.mkdir()
    (archive / FILE).write_bytes(chance.randbytes(100_000))
    (archive / EMPTY).touch()
    (archive / BIG).write_bytes(chance.randbytes(MIB) * 9)  # more than one step of a copy
    for number in range(12):
        path = archive / TREE / f"dir ü{number % 3}" / f"{number} & part"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(number * 1000))
    (archive / TREE / "nothing here").mkdir()
    (archive / BIG_TREE).mkdir()
    for name in ("a", "b"):
        shutil.copyfile(archive / BIG, archive / BIG_TREE / name)


def same(one: Path, other: Path) -> bool:
    """Whether two files or trees have the same content, names and times."""
    if one.is_dir() != other.is_dir():
        return False
    if not one.is_dir():
        times = one.stat().st_mtime_ns == other.stat().st_mtime_ns
        return times and one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
    names = sorted(each.name for each in one.iterdir())
    return names == sorted(each.name for each in other.iterdir()) and all(
        same(one / name, other / name) for name in names
    )


def overlap(jobs: Iterable[Mapping[str, Any]]) -> int:
    """Count how many transfers were moved at the same moment at most."""
    marks = [(job["time_transferring"], 1) for job in jobs] + [(job["time_success"], -1) for job in jobs]
    most = now = 0
    for _, change in sorted(marks):
        now += change
        most = max(most, now)
    return most
