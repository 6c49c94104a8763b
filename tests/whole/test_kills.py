"""`kill -9` at random moments, again and again, with work in every state."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from threading import Timer

import pytest

from tests.whole.daemon import Daemon, Lost
from tests.whole.site import BIG, EMPTY, FILE, TREE, Site

PRODUCTS = (FILE, TREE, EMPTY, BIG)


@dataclass
class Client:
    """Submits ``count`` transfers to a hub that may die at any moment, and keeps what it was told.

    Every third cancels what it has submitted; every fourth has no Idempotency-Key, and is not sent again
    when its answer is lost.
    """

    site: Site
    daemon: Daemon
    chance: random.Random
    count: int
    taken: dict[int, str] = field(default_factory=dict)
    cancels: dict[int, int] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)

    def work(self, many: int) -> None:
        """Go through up to ``many`` further transfers; return early when the hub is gone."""
        try:
            for number in self._left()[:many]:
                self._go(number)
        except Lost:
            pass

    def _left(self) -> list[int]:
        return [each for each in range(self.count) if each not in self.lost and not self._done(each)]

    def _done(self, number: int) -> bool:
        return number in self.taken and (number % 3 != 0 or number in self.cancels)

    def _go(self, number: int) -> None:
        if number not in self.taken:
            self._submit(number)
        if number % 3 == 0:
            answer = self.daemon.cancel(self.taken[number])
            assert answer.status in {200, 202, 409}, answer
            self.cancels[number] = answer.status

    def _submit(self, number: int) -> None:
        keyless = number % 4 == 0
        product = PRODUCTS[number % len(PRODUCTS) - number // 7 % len(PRODUCTS)]
        place = self.places.setdefault(number, self.site.destination())
        try:
            self.taken[number] = self.daemon.submit(product, place, None if keyless else f"key {number}")
        except Lost:
            if keyless:
                self.lost.add(number)
            raise


def kill_and_check(site: Site, seed: int, kills: int, count: int) -> None:
    """Kill the hub of ``site`` at ``kills`` random moments while ``count`` transfers go through."""
    print(f"seed {seed}")  # noqa: T201 - pytest shows it with a failure
    chance = random.Random(seed)
    daemon = site.hub()
    client = Client(site, daemon, chance, count)
    for _ in range(kills):
        daemon.start()
        bomb = Timer(chance.uniform(0, 0.8), daemon.process.kill)  # type: ignore[union-attr]  # it was started
        bomb.start()
        client.work(count // kills + 1)
        bomb.join()
        daemon.ended()
        site.check_nothing_partial()
    daemon.start()
    client.work(count)
    check(site, client)


def check(site: Site, client: Client) -> None:
    """Every accepted transfer has ended once, as it should; a cancelled one has left nothing."""
    seen = dict(zip(client.taken, client.daemon.await_final(client.taken.values()), strict=True))
    unheard = [row.id for row in site.rows("SELECT id FROM transfer") if row.id not in client.taken.values()]
    site.check_success(client.daemon.await_final(unheard))
    cancelled = [number for number, status in client.cancels.items() if status != 409]
    for number in cancelled:
        assert seen[number]["status"] == "CANCELLED", seen[number]
        assert not site.delivered(seen[number]).exists()
    maybe = [number for number, job in seen.items() if number % 3 == 0 and job["status"] == "CANCELLED"]
    site.check_success(seen[number] for number in seen if number not in {*cancelled, *maybe})
    assert len(unheard) <= len(client.lost)
    assert len(client.taken) + len(client.lost) == client.count
    site.check_slots(client.daemon)
    site.check_settled()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_kills_with_sqlite(site: Site, seed: int) -> None:
    """Every accepted transfer succeeds once, or is cancelled; nothing is left behind."""
    kill_and_check(site, seed, kills=8, count=60)


@pytest.mark.timeout(120)
def test_kills_with_a_database_server(server_site: Site) -> None:
    """The same holds when the database lives on."""
    kill_and_check(server_site, seed=3, kills=3, count=24)
