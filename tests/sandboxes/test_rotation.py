"""Following a log that is rotated at the worst moments: whatever is written comes once, in order, or it is said why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

import pytest
from twisted.internet.task import Clock

from datahub.sandboxes.agents import Entry
from datahub.sandboxes.following import Watches
from datahub.sandboxes.rotation import Listing, Mark, shifts
from tests.sandboxes.shelf import FOLDER, PACE, PATH, Follower, Log, Shelf

A, B, C, D = (Mark(size, float(size)) for size in (10, 20, 30, 40))
LONG = 1000
SEEDS = int(os.environ.get("DATAHUB_SEEDS", "10"))


def listing(*marks: Mark | None) -> Listing:
    """A log with these older files."""
    return Listing(live=True, rotated=marks)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (listing(), listing(), [0]),
        (listing(), listing(A), [1]),
        (listing(), listing(B, A), [2]),
        (listing(A), listing(B, A), [1]),
        (listing(B, A), listing(C, B), [1]),
        (listing(C, B, A), listing(D, C, B, A), [1]),
        (listing(B, A), listing(B), [0]),
        (listing(B, A), listing(D, C), []),
        (listing(A), listing(B), [0]),
        (listing(B), listing(A), []),
        (listing(B, None, A), listing(C, B, None, A), [1]),
        (listing(A, A), listing(A, A), [0, 1]),
    ],
)
def test_what_two_listings_tell(old: Listing, new: Listing, told: list[int]) -> None:
    """Sizes and times tell by how many rotations they differ; where they may lie the contents must tell."""
    assert [count for count, said in shifts(old, new) if said] == told
    assert sorted(count for count, _ in shifts(old, new)) == list(range(len(new.rotated) + 1))


def test_which_files_are_of_a_log() -> None:
    """Those with its name and a number; where one is missing between others is a gap."""
    names = {"stdout": 1, "stdout.1": 10, "stdout.3": 30, "stdout.01": 5, "stdout.gz": 5, "stderr.2": 5, "stdout.99": 5}
    found = Listing.of(PATH, [Entry(f"{FOLDER}/{name}", "-", size, size) for name, size in names.items()])
    assert found == Listing(True, (A, None, C))
    assert found.gaps == 1


class Scene:
    """A follower before a log that does, before each answer, what ``moves`` says next."""

    def __init__(self, moves: Callable[[Log], None], keep: int, before: bytes = b"") -> None:
        self.clock = Clock()
        self.log = Log(keep, self.clock)
        self.log.write(before)
        self.moves = moves
        self.shelf = Shelf(self.log, lambda: self.moves(self.log), self.clock)
        self.watches = Watches(PACE, self.clock)
        self.followers = [self.follow()]

    def follow(self) -> Follower:
        """One more."""
        return Follower(self.watches, self.shelf, self.log)

    def run(self, seconds: float = LONG) -> None:
        """Let the time pass, until all have come to their ends."""
        for _ in range(int(seconds / 0.01)):
            if all(each.ended for each in self.followers):
                return
            self.clock.advance(0.01)

    def end(self) -> None:
        """Finish the rotation that is under way, end the task, and let all read to the end."""
        self.moves = lambda log: None
        while self.log.step():
            pass
        self.log.ended = True
        self.run()
        assert all(each.ended for each in self.followers)


def moves_of(choices: Random, pieces: Callable[[int], bytes], *, copies: bool, quiet: float) -> Callable[[Log], None]:
    """Write, or rotate a step further, or neither."""
    count = 0

    def move(log: Log) -> None:
        nonlocal count
        if choices.random() < quiet:
            return
        if choices.random() < 0.5 and not log.step():
            count += 1
            log.write(pieces(count))
        elif not (log.step() or choices.random() < 0.5):
            log.step(log.copy if copies and choices.random() < 0.5 else log.rename)

    return move


SIZES = (1, 10, 500, 3000, 70_000)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("quiet", [0.3, 0.9])
@pytest.mark.parametrize("alike", [False, True])
def test_all_that_is_written_comes_once(seed: int, quiet: float, alike: bool) -> None:
    """However the steps of rotations fall between the answers, if what was rotated is kept: be the lines alike or not."""
    choices = Random(seed)

    def piece(number: int) -> bytes:
        return b"tick\n" * choices.randint(1, 3) if alike else b"%d," % number * choices.choice(SIZES)

    scene = Scene(moves_of(choices, piece, copies=False, quiet=quiet), keep=1000, before=b"begin\n")
    for _ in range(2):
        scene.run(choices.choice((0.5, 3.0)))
        scene.followers.append(scene.follow())
    scene.run(choices.choice((0.5, 5.0)))
    scene.end()
    assert [each.error for each in scene.followers] == [None] * 3
    assert all(each.data in each.wanted for each in scene.followers)
