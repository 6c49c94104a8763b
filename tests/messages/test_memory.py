"""Messages in memory: as many as fit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datahub.messages.memory import OVERHEAD, Memory
from datahub.messages.model import Message, digest_of


def message(content: bytes) -> Message:
    return Message(digest_of(content), content)


A, B, C = (message(bytes([letter]) * 100) for letter in b"abc")
ONE = 100 + OVERHEAD


def test_what_was_kept_is_found() -> None:
    """And nothing else."""
    memory = Memory(10 * ONE)
    memory.keep(A, memory.moment)
    assert memory.find(A.digest) is A
    assert memory.find(B.digest) is None


def test_the_one_not_asked_for_longest_goes_first() -> None:
    """When there is no room for all."""
    memory = Memory(2 * ONE)
    memory.keep(A, 0)
    memory.keep(B, 0)
    memory.find(A.digest)
    memory.keep(C, 0)
    assert [memory.find(each.digest) for each in (A, B, C)] == [A, None, C]


def test_a_message_larger_than_the_room_moves_nobody() -> None:
    """It is not kept, and the others stay."""
    memory = Memory(2 * ONE)
    memory.keep(A, 0)
    memory.keep(message(b"x" * 2 * ONE), 0)
    assert memory.find(A.digest) is A


def test_no_room_at_all() -> None:
    """Nothing is kept then."""
    memory = Memory(0)
    memory.keep(message(b""), 0)
    assert memory.find(digest_of(b"")) is None


def test_what_is_forgotten_stays_so() -> None:
    """Who read it before it was deleted, and comes with it afterwards, is not listened to."""
    memory = Memory(10 * ONE)
    moment = memory.moment
    memory.keep(A, moment)
    memory.forget(A.digest)
    memory.keep(A, moment)
    assert memory.find(A.digest) is None
    memory.keep(A, memory.moment)
    assert memory.find(A.digest) is A


@given(
    st.integers(0, 4 * ONE),
    st.lists(
        st.tuples(st.sampled_from(["keep", "find", "forget"]), st.integers(0, 6), st.integers(0, 300)), max_size=60
    ),
)
def test_the_room_is_never_exceeded(room: int, steps: list[tuple[str, int, int]]) -> None:
    """And what is counted is what is there."""
    memory = Memory(room)
    for step, letter, size in steps:
        each = message(bytes([letter]) * size)
        match step:
            case "keep":
                memory.keep(each, memory.moment)
            case "find":
                assert memory.find(each.digest) in (None, each)
            case _:
                memory.forget(each.digest)
        assert memory.taken == sum(len(kept.content) + OVERHEAD for kept in memory._kept.values()) <= room
