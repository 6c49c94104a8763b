"""More than 8 GiB from the real daemon: what ustar has no digits for."""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from datahub.carts.tar import END, header, padding
from tests.whole.site import Site

MIB = 1024 * 1024
EIGHT_GIB = 8 * 1024 * MIB
HUGE = EIGHT_GIB + 12_345
STEP = 64 * 1024
TOP = "volume"
SIZE_COLUMN = {"tar": 2, "bsdtar": 4}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where to read a hole takes no room: of a disk, all that is read would be kept in memory."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="datahub-test-", dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def members(archive: Path) -> dict[str, Path]:
    """The files of a cart by their paths in it: a small one, one with holes beyond 8 GiB, and one that lies behind."""
    chance = random.Random(8)
    (archive / "before").write_bytes(chance.randbytes(100_001))
    with (archive / "huge").open("wb") as file:
        for place in (0, 2**32 - 3, EIGHT_GIB - 4, HUGE - 1000):
            file.seek(place)
            file.write(chance.randbytes(1000))
    (archive / "after").write_bytes(chance.randbytes(3 * MIB + 1))
    names = {"before": "before", "huge": "huge", "after": f"ü/{'behind/' * 40}after"}
    return {path: archive / name for name, path in names.items()}


def laid_out(members: Mapping[str, Path]) -> Iterator[bytes]:
    """The tar in pieces, from names, sizes, times and the files as they lie in the archive."""
    length = 0
    for path, file in members.items():
        told = file.stat()
        head, rest = header(f"{TOP}/{path}", told.st_size, told.st_mtime_ns), padding(told.st_size)
        yield head
        with file.open("rb") as opened:
            yield from iter(partial(opened.read, STEP), b"")
        yield rest
        length += len(head) + told.st_size + len(rest)
    yield END + bytes(-(length + len(END)) % tarfile.RECORDSIZE)


def check_download(url: str, pieces: Iterable[bytes], tar: Path) -> None:
    """Curl gets ``pieces`` and nothing else; they are kept in ``tar``, with holes in place of zeros."""
    zeros = bytes(STEP)
    with subprocess.Popen(["curl", "-sSf", "-m", "150", url], stdout=subprocess.PIPE) as curl, tar.open("wb") as file:
        assert curl.stdout
        fcntl.fcntl(curl.stdout, fcntl.F_SETPIPE_SZ, MIB)
        for piece in pieces:
            assert curl.stdout.read(len(piece)) == piece, f"other bytes from {file.tell()} on"
            if piece == zeros:
                file.seek(STEP, os.SEEK_CUR)
            else:
                file.write(piece)
        assert curl.stdout.read(1) == b""
    assert curl.returncode == 0


def listed(program: str, tar: Path) -> dict[str, int]:
    """Path and size of each member, as ``program`` lists them."""
    command = [program, "-tvf", str(tar)]
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}
    told = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=True)
    lines = [each.split() for each in told.stdout.splitlines()]
    return {each[-1]: int(each[SIZE_COLUMN[program]]) for each in lines}


def check_by_tarfile(tar: Path, members: Mapping[str, Path]) -> None:
    """Python's tarfile finds all members, and the last bytes of each are right."""
    with tarfile.open(tar) as opened:
        for member, file in zip(opened.getmembers(), members.values(), strict=True):
            found = opened.extractfile(member)
            assert found is not None
            found.seek(-1000, os.SEEK_END)
            assert found.read() == last(file), member.name


def last(file: Path) -> bytes:
    """The last 1000 bytes."""
    with file.open("rb") as opened:
        opened.seek(-1000, os.SEEK_END)
        return opened.read()


@pytest.mark.slow
def test_a_cart_of_more_than_8_gib(site: Site, archive: Path, members: Mapping[str, Path]) -> None:
    """Curl gets the very bytes that the layout says, and GNU tar, bsdtar and Python's tarfile read them."""
    hub = site.hub(sections={"archive": {"url": archive.as_uri()}})
    hub.start()
    body = {"fileids": [{"id": file.name, "path": path} for path, file in members.items()]}
    assert hub.call("POST", "/huge", json.dumps(body)).status == 201
    told = hub.call("GET", "/carts/huge?wait=30s").json
    assert (told["status"], told["size"]) == ("ready", sum(file.stat().st_size for file in members.values()))
    url, tar = f"http://127.0.0.1:{hub.port}/carts/huge/{TOP}.tar", archive / "got.tar"
    check_download(url, laid_out(members), tar)
    sizes = {f"{TOP}/{path}": file.stat().st_size for path, file in members.items()}
    assert {program: listed(program, tar) for program in SIZE_COLUMN} == dict.fromkeys(SIZE_COLUMN, sizes)
    check_by_tarfile(tar, members)
    rest = subprocess.run(["curl", "-sSf", "-r", f"{HUGE}-", url], capture_output=True, timeout=30, check=True).stdout
    with tar.open("rb") as file:
        file.seek(HUGE)
        assert file.read() == rest
