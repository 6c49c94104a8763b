"""What is signed for a service that is to act for the hub, and what is not."""

from __future__ import annotations

import subprocess
import time

import pytest

from datahub.transfers.movers.proxies import load, sign
from tests.gridftp import Authority


def test_a_key_that_is_too_short(tmp_path):
    """FTS makes an RSA key of 576 bits for who comes with a key on a curve: such a proxy nobody would take."""
    own = load(*Authority(tmp_path).issue("hub"))
    command = ["openssl", "req", "-new", "-newkey", "rsa:576", "-nodes", "-keyout", "key", "-subj", "/O=Dummy"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=20)
    with pytest.raises(ValueError, match="RSA key of 576 bits only: give the hub a certificate for RSA"):
        sign(made.stdout, own, time.time(), 3600)
