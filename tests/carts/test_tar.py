"""The layout: what is computed is what tar programs read, whatever the names, sizes and times."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahub.carts.tar import Layout, header, padding, top_of
from tests.servers import MISSING, services_required

NS = 1_700_000_000 * 10**9

segments = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=120)
names = st.lists(segments.filter(lambda s: s not in (".", "..")), min_size=1, max_size=5).map("/".join)
times = st.integers(-(10**18), 2**40 * 10**9)


def tar_of(top: str, files: list[tuple[str, bytes, int]]) -> tuple[bytes, Layout]:
    layout, whole = Layout(top, "x"), b""
    for number, (name, data, mtime) in enumerate(files):
        layout.add(number, name, len(data), mtime)
        assert layout.starts[number] == len(whole)
        whole += header(f"{top}/{name}", len(data), mtime) + data + padding(len(data))
    return whole + layout.end, layout


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


@given(
    st.lists(st.tuples(names, st.binary(max_size=1100), times), max_size=8, unique_by=lambda each: each[0]), segments
)
@settings(max_examples=150, deadline=None)
def test_what_is_computed_is_what_tarfile_reads(files, top):
    """Names of any script and length, any time, any size: length and offsets are as computed, all members come back."""
    whole, layout = tar_of(top, files)
    assert len(whole) == layout.length
    assert len(whole) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        members = tar.getmembers()
        found = [(each.name, _read(tar, each), int(each.mtime)) for each in members]
    expected = [(f"{top}/{name}".rstrip("/"), data, mtime // 10**9) for name, data, mtime in files]
    assert found == expected


def listed(program: str, path: Path, *options: str) -> str:
    """What ``program`` tells of a tar."""
    command = [program, *options, "-f", str(path)]
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout


@pytest.mark.parametrize(("program", "options"), [("tar", ("--quoting-style=literal", "-t")), ("bsdtar", ("-t",))])
def test_tar_programs_read_it(tmp_path, program, options):
    """Long names, other scripts, and a file of more than 8 GiB by its header."""
    if shutil.which(program) is None:
        (pytest.fail if services_required() else pytest.skip)(f"{MISSING}{program}; install Debian's libarchive-tools")
    files = [("a", b"1", NS), ("é/日本", b"22", NS), ("n" * 300, b"333", NS), ("d/" * 100 + "f", b"4", NS)]
    whole, _ = tar_of("top", files)
    path = tmp_path / "x.tar"
    path.write_bytes(whole)
    assert listed(program, path, *options).splitlines() == [f"top/{name}" for name, _, _ in files]
    big = 9 * 2**30
    path.write_bytes(header("top/big", big, NS))
    with path.open("ab") as sparse:
        sparse.truncate(len(header("top/big", big, NS)) + big + 10240)
    assert str(big) in listed(program, path, "-tv")


@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("my_cart.tar", "my_cart"),
        ("a.tar.gz", "a.gz"),
        ("data", "data"),
        ("", "data"),
        (".tar", "data"),
        ("../../x.tar", "x"),
        ("..", "data"),
        ("a\r\nX: y.tar", "a__X: y"),
        ('q"uote.tar', 'q"uote'),
        ("x" * 500, "x" * 200),
        ("ü.tar", "ü"),
        ("a\\b", "a_b"),
        ("/etc/", "data"),
    ],
)
def test_the_top_folder(name, top):
    """The name without ".tar", as one tame segment."""
    assert top_of(name) == top


def test_the_tag_changes_with_the_top_and_the_content():
    """Another folder, or other files, and what there was of a download can't be gone on with."""
    tags = set()
    for top, identity in [("a", "1"), ("b", "1"), ("a", "2")]:
        layout = Layout(top, identity)
        layout.add(0, "f", 1, NS)
        tags.add(layout.tag)
    assert len(tags) == 3


def test_which_member_an_offset_is_in():
    """Header, content and padding belong to their member."""
    layout = Layout("t", "x")
    layout.add(0, "a", 1, NS)
    layout.add(1, "b", 513, NS)
    assert [layout.member_at(each) for each in (0, 511, 1023, 1024, 2559, 2560, 9999)] == [0, 0, 0, 1, 1, 2, 2]
