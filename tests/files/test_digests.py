"""Digests agree with the tools that people check them with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zlib
from pathlib import Path
from threading import Event

import pytest

from datahub.files import Manifest, Stopped, digest_of, held, new_digest


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 3_000_000])
def test_digests_of_a_file(tmp_path: Path, size: int) -> None:
    """Every algorithm gives what its reference gives, at and around the block's size."""
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    with held(os.open(tmp_path / "file", os.O_RDONLY)) as file:
        assert digest_of(file, "sha256", Event()) == hashlib.sha256(data).hexdigest()
        assert digest_of(file, "md5", Event()) == hashlib.md5(data).hexdigest()
        assert digest_of(file, "adler32", Event()) == f"{zlib.adler32(data):08x}"


def test_adler32_keeps_its_leading_zeros() -> None:
    """Adler-32 is always eight digits: of nothing it is 00000001."""
    assert new_digest("adler32").hexdigest() == "00000001"


def test_a_digest_is_stopped(tmp_path: Path) -> None:
    """A set flag ends the reading."""
    (tmp_path / "file").write_bytes(b"x")
    stop = Event()
    stop.set()
    with held(os.open(tmp_path / "file", os.O_RDONLY)) as file, pytest.raises(Stopped):
        digest_of(file, "sha256", stop)


ODD_NAMES = [b"plain", b"a b", b"new\nline", b"car\rriage", b"back\\slash", b"\xff\xfe", b"\\n", b"-n", b"*", b"\x01"]


def test_manifest_is_what_sha256sum_prints(tmp_path: Path) -> None:
    """The manifest equals the shell's, with each kind of name that sha256sum escapes."""
    manifest = Manifest()
    for name in sorted(ODD_NAMES):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
        manifest.add(os.fsdecode(name), hashlib.sha256(name).hexdigest())
    line = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum"
    printed = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    assert printed.split()[0] == manifest.hexdigest()
