"""Carts of thousands of files and of more than 8 GiB, read in parts: each part is what the whole has there."""

from __future__ import annotations

import os
import random
from bisect import bisect_right
from collections.abc import Iterator

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datahub.carts.pipeline import STAGE
from datahub.carts.tar import header
from datahub.kit.aio import start
from tests.carts.yard import Yard

HUGE = 2**33 + 12_345
COUNT = 3_000
LARGEST_PART = 200_000


class Expected:
    """Where each file lies: behind the headers of those before it, whose form other tests give to other programs."""

    def __init__(self, yard: Yard, paths: list[str]) -> None:
        self._members = [(path, (yard.archive / path).stat()) for path in sorted(paths, key=str.encode)]
        self._archive = yard.archive
        self.starts = [0]
        self._heads = []
        for path, found in self._members:
            self._heads.append(len(header(f"t/{path}", found.st_size, found.st_mtime_ns)))
            self.starts.append(self.starts[-1] + self._heads[-1] + -(-found.st_size // 512) * 512)

    def content(self, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes of what is of files in a part of the tar."""
        for at in range(bisect_right(self.starts, first) - 1, len(self._members)):
            path, found = self._members[at]
            begin = self.starts[at] + self._heads[at]
            low, high = max(first, begin), min(end, begin + found.st_size)
            if low < high:
                with (self._archive / path).open("rb") as file:
                    yield low, os.pread(file.fileno(), high - low, low - begin)
            if self.starts[at + 1] >= end:
                return


def filled(yard: Yard) -> list[str]:
    """Put thousands of files with names of any length and script into the archive, and a very large one among them."""
    chance = random.Random(6)
    paths = []
    for number in range(COUNT):
        name = "".join(chance.choices("aä漢😀 .", k=chance.randrange(1, 60)))
        paths.append(f"{number % 20}/{'deep/' * (number % 50)}{name}x{number}")
        yard.put(paths[-1], chance.randbytes(chance.choice([0, 1, 511, 512, 513, 2000])))
    paths.append("10/huge")
    with yard.put("10/huge").open("wb") as file:
        for place in (0, 2**32 - 3, 2**33 - 4, HUGE - 1000):
            file.seek(place)
            file.write(chance.randbytes(1000))
    return paths


async def test_any_part_of_a_very_large_cart(yard):
    """Whatever is asked for has its length, and of each file in it the bytes that the file has there."""
    paths = filled(yard)
    assert (await yard.post("abc", {path: path for path in paths})).status == 201
    for _ in range(3):
        yard.look(STAGE)  # its digests would take as long as reading 8 GiB does
    expected = Expected(yard, paths)
    length = int((await yard.client.ask("HEAD", "/carts/abc/t.tar")).headers["content-length"])
    assert length > expected.starts[-1] > HUGE

    near = st.sampled_from([*expected.starts[:-1], expected.starts[-1] - HUGE, 2**33, length - 1])

    @given(near=near, before=st.integers(0, 5_000), size=st.integers(1, LARGEST_PART))
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def parts(near: int, before: int, size: int) -> None:
        first = min(max(0, near - before), length - 1)
        end = min(first + size, length)
        done: list[object] = []

        async def ask() -> None:
            answer = await yard.client.ask("GET", "/carts/abc/t.tar", headers={"Range": f"bytes={first}-{end - 1}"})
            assert (answer.status, len(answer.body)) == (206, end - first)
            for at, data in expected.content(first, end):
                assert answer.body[at - first : at - first + len(data)] == data

        start(ask()).addBoth(done.append)
        assert done == [None], done

    parts()
