"""Bytes on disk: copying, hashing, naming and removing them; blocking, so always called in a thread."""

from __future__ import annotations

from datahub.files.copying import Mismatch, Shrunk, copy_bytes, copy_verified
from datahub.files.digests import ALGORITHMS, Checksum, Digest, Manifest, digest_of, new_digest
from datahub.files.folders import Position, held, make_folder, remove
from datahub.files.permissions import set_mode, user_name
from datahub.files.renaming import rename_new
from datahub.files.stopping import Stopped, check
from datahub.files.trees import manifest_of, sha256_of
from datahub.files.urls import path_of_url, url_of_path

__all__ = [
    "ALGORITHMS",
    "Checksum",
    "Digest",
    "Manifest",
    "Mismatch",
    "Position",
    "Shrunk",
    "Stopped",
    "check",
    "copy_bytes",
    "copy_verified",
    "digest_of",
    "held",
    "make_folder",
    "manifest_of",
    "new_digest",
    "path_of_url",
    "remove",
    "rename_new",
    "set_mode",
    "sha256_of",
    "url_of_path",
    "user_name",
]
