"""Following a log that is rotated at the worst moments: what is written comes once, in order, or it is said why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from datahub.errors import UpstreamFault
from datahub.sandboxes.agents import Entry
from datahub.sandboxes.following import Watches
from datahub.sandboxes.rotation import Listing, Mark, shifts
from tests.sandboxes.shelf import FOLDER, PACE, PATH, Follower, Log, Shelf

A, B, C, D = (Mark(size, float(size)) for size in (10, 20, 30, 40))
LONG = 1000
# For more of them, once: DATAHUB_SEEDS=1000.
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
        (listing(A), listing(B), []),
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

    def __init__(self, moves: Callable[[Log], None], keep: int, before: bytes = b"", pause: float = 0.01) -> None:
        self.clock = Clock()
        self.log = Log(keep, self.clock)
        self.log.write(before)
        self.moves = moves
        self.pause = pause
        self.shelf = Shelf(self.log, lambda: self.moves(self.log), pause, self.clock)
        self.watches = Watches(PACE, self.clock)
        self.followers = [self.follow()]

    def follow(self) -> Follower:
        """One more."""
        return Follower(self.watches, self.shelf, self.log)

    def run(self, seconds: float = LONG) -> None:
        """Let the time pass, until all have come to their ends."""
        for _ in range(int(seconds / self.pause)):
            if all(each.ended for each in self.followers):
                return
            self.clock.advance(self.pause)

    def end(self) -> None:
        """Finish the rotation that is under way, end the task, and let all read to the end."""
        self.moves = lambda log: None
        while self.log.step():
            pass
        self.log.ended = True
        self.run()
        assert all(each.ended for each in self.followers)


def moves_of(
    choices: Random, pieces: Callable[[], bytes], *, quiet: float, copies: bool = False
) -> Callable[[Log], None]:
    """Write, or rotate a step further, or neither."""

    def move(log: Log) -> None:
        if choices.random() < quiet:
            return
        if choices.random() < 0.5 and not log.step():
            log.write(pieces())
        elif not (log.step() or choices.random() < 0.5):
            log.step(log.copy if copies else log.rename)

    return move


def numbers(choices: Random) -> Callable[[], bytes]:
    """What is not like anything before, small or large."""
    count = iter(range(1, 1_000_000))
    return lambda: b"%d," % next(count) * choices.choice(SIZES)


def ticks(choices: Random) -> Callable[[], bytes]:
    """What is always the same."""
    return lambda: b"tick\n" * choices.randint(1, 3)


def still(log: Log) -> None:
    """Do nothing."""


SIZES = (1, 10, 500, 3000, 70_000)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("quiet", [0.3, 0.9])
@pytest.mark.parametrize("alike", [False, True])
def test_all_that_is_written_comes_once(seed: int, quiet: float, alike: bool) -> None:
    """However the steps of rotations fall between the answers, and be the lines alike, if what was rotated is kept."""
    choices = Random(seed)
    pieces = ticks(choices) if alike else numbers(choices)
    scene = Scene(moves_of(choices, pieces, quiet=quiet), keep=1000, before=b"begin\n")
    for _ in range(2):
        scene.run(choices.choice((0.5, 3.0)))
        scene.followers.append(scene.follow())
    scene.run(choices.choice((0.5, 5.0)))
    scene.end()
    assert [each.error for each in scene.followers] == [None] * 3
    assert all(each.data in each.wanted for each in scene.followers)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_log_that_is_copied_and_emptied(seed: int) -> None:
    """What has been copied and is still there is not taken for something new."""
    choices = Random(seed)
    scene = Scene(still, keep=1000, before=b"begin\n")
    scene.run(1)
    scene.moves = moves_of(choices, numbers(choices), quiet=0.7, copies=True)
    scene.run(choices.choice((1.0, 5.0)))
    scene.end()
    (follower,) = scene.followers
    assert follower.error is None
    assert follower.data in follower.wanted


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_removed_too_soon_is_no_end(seed: int) -> None:
    """Where too little is kept, what came before it was lost is right, and then the answer is broken off."""
    choices = Random(seed)
    moves = moves_of(choices, numbers(choices), quiet=0.3)
    # No two rotations within a second: by the times of their changes alone are files of one size told apart.
    scene = Scene(moves, keep=choices.choice((1, 2, 3)), before=b"begin\n", pause=0.5)
    scene.run(choices.choice((50, 250)))
    scene.end()
    (follower,) = scene.followers
    if follower.error is None:
        assert follower.data in follower.wanted
    else:
        assert isinstance(follower.error, UpstreamFault)
        assert any(each.startswith(follower.data) for each in follower.wanted)


def rotated(log: Log) -> None:
    """Rotate at once."""
    log.step(log.rename)
    while log.step():
        pass


def test_more_rotations_than_are_kept() -> None:
    """What was never read and is gone is said to be lost."""
    scene = Scene(still, keep=2, before=b"begin\n")
    scene.run(2)
    for number in range(4):
        scene.log.write(b"%d\n" % number)
        rotated(scene.log)
    with capturedLogs() as events:
        scene.run(10)
    (follower,) = scene.followers
    assert [event["path"] for event in events if "path" in event] == [PATH]
    assert (follower.data, follower.ended) == (b"begin\n", True)
    assert str(follower.error) == "Mesos agent S0 has not kept the part of the file that comes next"


def test_a_log_that_is_emptied_in_place() -> None:
    """It goes on with what is written then, and the hub's log tells that something may be missing."""
    scene = Scene(still, keep=2, before=b"begin\n")
    scene.run(3)
    with capturedLogs() as events:
        scene.log.empty()
        scene.log.write(b"anew\n")
        scene.run(3)
    assert [event["path"] for event in events if "path" in event] == [PATH]
    scene.end()
    assert (scene.followers[0].data, scene.followers[0].error) == (b"begin\nanew\n", None)


def test_an_idle_log_that_is_rotated_again_and_again() -> None:
    """That a file which was read to its end is removed at last is no loss."""
    scene = Scene(still, keep=3, before=b"begin\n")
    for _ in range(10):
        scene.run(3)
        rotated(scene.log)
    scene.run(3)
    scene.log.write(b"again\n")
    scene.run(3)
    rotated(scene.log)
    scene.log.write(b"end\n")
    scene.end()
    assert (scene.followers[0].data, scene.followers[0].error) == (b"begin\nagain\nend\n", None)


def test_a_task_that_writes_on_to_the_renamed_file() -> None:
    """Until it opens the new one, as it does when it is told to by a signal; as long as that is empty."""
    scene = Scene(still, keep=3, before=b"begin\n")
    scene.run(3)
    rotated(scene.log)
    scene.run(3)
    scene.log.write(b"late\n", age=1)
    scene.run(3)
    scene.log.write(b"later\n", age=1)
    scene.log.write(b"new\n")
    scene.end()
    assert (scene.followers[0].data, scene.followers[0].error) == (b"begin\nlate\nlater\nnew\n", None)


def test_a_log_that_began_anew_elsewhere() -> None:
    """One whose older files are all unlike those that were there, and that is not what it was, is not guessed at."""
    scene = Scene(still, keep=3, before=b"begin\n")
    rotated(scene.log)
    scene.log.write(b"more\n")
    scene.run(3)
    scene.log.files = {0: (b"else\n", 9), 1: (b"other\n", 8)}
    scene.run(3)
    assert scene.followers[0].data == b"more\n"
    assert isinstance(scene.followers[0].error, UpstreamFault)


def test_an_older_file_that_is_removed() -> None:
    """A gap that stays is none of a rotation; it holds nobody up for long."""
    scene = Scene(still, keep=9)
    for number in range(4):
        scene.log.write(b"%d\n" % number)
        rotated(scene.log)
    scene.log.write(b"begin\n")
    scene.run(2)
    del scene.log.files[1]
    scene.run(2)
    scene.log.write(b"end\n")
    scene.run(2)
    assert scene.followers[0].data == b"begin\n"
    scene.run(PACE.settle)
    assert scene.followers[0].data == b"begin\nend\n"
    scene.end()
    assert scene.followers[0].error is None
