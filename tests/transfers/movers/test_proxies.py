"""What is signed for a service that is to act for the hub, and what is not."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from datahub.transfers.movers.proxies import Papers, load, sign
from tests.gridftp import Authority


def test_a_key_that_is_too_short(tmp_path):
    """FTS makes an RSA key of 576 bits for who comes with a key on a curve: such a proxy nobody would take."""
    own = load(*Authority(tmp_path).issue("hub"))
    command = ["openssl", "req", "-new", "-newkey", "rsa:576", "-nodes", "-keyout", "key", "-subj", "/O=Dummy"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=20)
    with pytest.raises(ValueError, match="RSA key of 576 bits only: give the hub a certificate for RSA"):
        sign(made.stdout, own, time.time(), 3600)


def test_where_a_token_is_looked_for(tmp_path):
    """In the file, if there is one: neither an older token of the configuration, nor one of the daemon counts then."""
    inherited = {"BEARER_TOKEN": "of the daemon", "HOME": "/"}
    papers = Papers(token_file=tmp_path / "token")
    assert papers.environment(inherited, "old") == {"BEARER_TOKEN_FILE": str(tmp_path / "token"), "HOME": "/"}
    assert Papers().environment(inherited, "own") == {"BEARER_TOKEN": "own", "HOME": "/"}
    assert Papers().environment(inherited, None) == inherited


def test_a_token_that_is_not_there(tmp_path):
    """Its file is named; where there is one it is good for all that is known here."""
    token = tmp_path / "token"
    papers = Papers(token_file=token)
    assert papers.trouble(0) == f"the token {token} can't be read: No such file or directory"
    token.write_bytes(b" \n")
    assert papers.trouble(0) == f"there is no token in the file {token}"
    token.write_bytes(b"\xff")
    assert papers.trouble(0) == f"the token {token} is not ASCII"
    token.write_bytes(b"abc\n")
    assert papers.trouble(0) == ""


@pytest.mark.parametrize("what", ["certificate", "key", "proxy", "ca", "token_file"])
def test_what_has_been_renewed(tmp_path, what):
    """It is seen of each file, be it that it was not there; of a folder, that a file in it was replaced."""
    path = tmp_path / "it"
    papers = Papers(**{what: path})
    seen = {papers.stamp()}
    path.write_text("1")
    seen.add(papers.stamp())
    (tmp_path / "other").write_text("2")
    (tmp_path / "other").replace(path)
    seen.add(papers.stamp())
    path.unlink()
    path.mkdir()
    (path / "ca.pem").write_text("1")
    os.utime(path, (1, 1))
    seen.add(papers.stamp())
    (path / "new.pem").write_text("2")
    (path / "new.pem").replace(path / "ca.pem")
    seen.add(papers.stamp())
    assert len(seen) == 5
    assert papers.stamp() in seen
