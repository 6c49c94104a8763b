"""Following a file: while it grows, over rotations, to the end of the task."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted

from datahub.kit.aio import sleep
from tests.fakes.mesos_states import AGENT, directory
from tests.sandboxes.house import Body, House
from tests.sandboxes.test_routes import APP, LINES, one_task
from tests.waiting import until

MORE = b"".join(b"more %d\n" % number for number in range(200))


@pytest_twisted.async_fixture
async def house(make: Any) -> House:
    """Give a hub before a task that runs."""
    house: House = make(one_task(), ttl=0.05)
    house.put(house.fake.agents[AGENT], directory(APP, "c1"), {"stdout": LINES})
    return house


def stdout(house: House) -> Path:
    """The file on the agent."""
    return house.root / directory(APP, "c1").lstrip("/") / "stdout"


def grow(house: House, data: bytes) -> None:
    """Let the task write."""
    with stdout(house).open("ab") as file:
        file.write(data)


def rotate(house: House, most: int = 9) -> None:
    """Do as logrotate does."""
    path = stdout(house)
    for age in range(most, 0, -1):
        old = path.with_name(f"stdout.{age}")
        if old.exists():
            old.rename(path.with_name(f"stdout.{age + 1}"))
    path.rename(path.with_name("stdout.1"))
    path.touch()


def end(house: House, state: str = "TASK_FINISHED") -> None:
    """Let the task end."""
    framework = house.fake.state["frameworks"][0]
    tasks, framework["tasks"] = framework["tasks"], []
    for each in tasks:
        each["state"] = state
        framework["completed_tasks"].append(each)
    house.fake.changed()


async def follow(house: House, **query: object) -> Body:
    """Begin to follow."""
    response = await house.begin(house.path(APP, filename="stdout", follow=1, **query))
    assert response.code == 200
    body = Body()
    response.deliverBody(body)
    return body


async def test_from_the_beginning_to_the_end(house: House) -> None:
    """All that is there, all that comes, and a clean end when the task has ended."""
    body = await follow(house)
    await until(lambda: body.data == LINES, "what was there")
    grow(house, MORE)
    await until(lambda: body.data == LINES + MORE, "what has come")
    grow(house, b"last words")
    end(house)
    await body.done
    assert (bytes(body.data), body.whole) == (LINES + MORE + b"last words", True)


async def test_of_a_task_that_has_ended(house: House) -> None:
    """It is the whole file."""
    end(house)
    body = await follow(house)
    await body.done
    assert (bytes(body.data), body.whole) == (LINES, True)


async def test_from_the_last_lines_on(house: House) -> None:
    """As tail -f."""
    body = await follow(house, tail=2)
    grow(house, b"new\n")
    end(house)
    await body.done
    assert bytes(body.data) == b"line 999\nline 1000\nnew\n"


async def test_over_a_rotation(house: House) -> None:
    """What was written before and after the rotation is all there, once."""
    body = await follow(house)
    await until(lambda: body.data == LINES, "what was there")
    grow(house, b"before\n")
    rotate(house)
    grow(house, b"after\n")
    await until(lambda: body.data.endswith(b"after\n"), "the new file")
    rotate(house)
    grow(house, MORE * 10)
    end(house)
    await body.done
    assert (bytes(body.data), body.whole) == (LINES + b"before\nafter\n" + MORE * 10, True)


async def test_over_several_rotations_at_once(house: House) -> None:
    """Whole files that were never the newest at a poll are not passed over."""
    body = await follow(house)
    await until(lambda: body.data == LINES, "what was there")
    wanted = bytearray(LINES)
    for number in range(4):
        piece = MORE * 60 + b"round %d\n" % number
        grow(house, piece)
        wanted += piece
        rotate(house)
    grow(house, b"newest")
    end(house)
    await body.done
    assert (bytes(body.data) == wanted + b"newest", body.whole) == (True, True)


@pytest.mark.parametrize("seed", range(3))
async def test_over_rotations_at_any_moment(house: House, seed: int) -> None:
    """A task that writes while its log is rotated again and again is followed by all, from wherever they began."""
    choices = Random(seed)
    bodies, wanted = [await follow(house)], bytearray(LINES)
    for number in range(60):
        if choices.random() < 0.2:
            rotate(house, most=100)
        else:
            piece = b"%d %d\n" % (seed, number) * choices.choice((1, 100, 10_000))
            grow(house, piece)
            wanted += piece
        await sleep(choices.random() * 0.02, house.reactor)
        if number == 30:
            bodies.append(await follow(house, tail=0))
    grow(house, b"last words")
    end(house)
    for body in bodies:
        await body.done
    assert [body.whole for body in bodies] == [True, True]
    assert bodies[0].data == wanted + b"last words"
    assert bodies[1].data.endswith(b"last words")
    assert bodies[0].data.endswith(bodies[1].data)


async def test_an_empty_file_that_is_rotated_again(house: House) -> None:
    """A file that was empty when it was looked at last, and has a younger one now, is read all the same."""
    body = await follow(house)
    await until(lambda: body.data == LINES, "what was there")
    rotate(house)
    await sleep(0.2, house.reactor)
    grow(house, b"filled\n")
    rotate(house)
    grow(house, b"next\n")
    end(house)
    await body.done
    assert bytes(body.data) == LINES + b"filled\nnext\n"


async def test_a_file_that_is_cut(house: House) -> None:
    """One that was emptied where it is goes on with what is written then."""
    body = await follow(house)
    await until(lambda: body.data == LINES, "what was there")
    stdout(house).write_bytes(b"anew\n")
    end(house)
    await body.done
    assert bytes(body.data) == LINES + b"anew\n"


async def test_a_moment_without_the_file(house: House) -> None:
    """Between renaming and making anew there is none; it is waited for."""
    body = await follow(house)
    await until(lambda: body.data == LINES, "what was there")
    stdout(house).rename(stdout(house).with_name("stdout.1"))
    await sleep(0.2, house.reactor)
    stdout(house).write_bytes(b"new file\n")
    end(house)
    await body.done
    assert (bytes(body.data), body.whole) == (LINES + b"new file\n", True)


async def test_many_followers_are_one_poll(house: House) -> None:
    """A hundred callers who are at the end cost the agent what one costs."""
    bodies = [await follow(house, tail=0) for _ in range(100)]
    await sleep(0.3, house.reactor)
    asked = house.fake.agents[AGENT].asked
    before = len(asked)
    await sleep(0.5, house.reactor)
    # A poll each 0.02 s, of two questions; a hundred polls would ask a hundred times as often.
    assert len(asked) - before < 200
    grow(house, MORE)
    end(house)
    for body in bodies:
        await body.done
    assert {bytes(body.data) for body in bodies} == {MORE}


async def test_an_agent_that_is_lost(house: House) -> None:
    """The answer is broken off when the file can't be had for a while, not ended."""
    body = await follow(house)
    await until(lambda: body.data == LINES, "what was there")
    await house.fake.agents[AGENT].close()
    house.fake.agents[AGENT].misbehaving["read"] = lambda request: request.channel.abortConnection() or b""
    await body.done
    assert (bytes(body.data), body.whole) == (LINES, False)


async def test_a_caller_who_leaves(house: House) -> None:
    """Nothing is polled any more when nobody follows."""
    response = await house.begin(house.path(APP, filename="stdout", follow=1))
    body = Body()
    response.deliverBody(body)
    await until(lambda: body.data == LINES, "what was there")
    body.transport.stopProducing()  # type: ignore[union-attr]
    await body.done
    asked, before = house.fake.agents[AGENT].asked, -1
    for _ in range(60):
        if len(asked) == before:
            break
        before = len(asked)
        # Ten polls of those who follow.
        await sleep(0.2, house.reactor)
    else:
        raise AssertionError("it is still polled")


@pytest.mark.parametrize("size", [3 * 2**20, 1000])
async def test_large_files_are_downloaded_first(house: House, size: int) -> None:
    """What is there already comes by one download if it is much."""
    stdout(house).write_bytes(bytes(size))
    body = await follow(house)
    await until(lambda: len(body.data) == size, "what was there")
    grow(house, b"end")
    end(house)
    await body.done
    assert bytes(body.data) == bytes(size) + b"end"
    downloads = [each for each in house.fake.agents[AGENT].asked if each.path == "/files/download"]
    assert len(downloads) == (size > 2**20)
