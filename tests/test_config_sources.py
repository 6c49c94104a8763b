"""Where the values of a configuration come from: the environment, files, and tokens in three ways."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from datahub.config import TokenSection
from tests.configured import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_variables_are_taken_from_the_environment(folder: Folder) -> None:
    """In strings, in strings of lists; with a default when unset or empty."""
    text = """
    [hub]
    state = "${HOME}/hub"
    node = "${NODE:-one}-${N:-1}"
    workers = ["${WORKER}"]
    drain = "${DRAIN:-5 s}"
    [limits]
    connections = "${CONNECTIONS}"
    """
    environ = {"HOME": "/home/hub", "N": "", "WORKER": "transfers", "CONNECTIONS": "5"}
    config = folder.load(text, environ)
    assert config.hub == replace(
        config.hub, state=Path("/home/hub/hub"), node="one-1", workers=("transfers",), drain=5.0
    )
    assert config.limits.connections == 5


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("${NOWHERE}", "the environment has no NOWHERE; set it, or give a default: ${NOWHERE:-default}"),
        ("a${", 'has "${"; a variable is written ${NAME} or ${NAME:-default}'),
        ("${A-b}", 'has "${A-b}"; a variable is written ${NAME} or ${NAME:-default}'),
        ("${}", 'has "${}"; a variable is written ${NAME} or ${NAME:-default}'),
    ],
)
def test_wrong_variable(folder: Folder, value: str, reason: str) -> None:
    """A variable that is not set, or not written as one."""
    assert folder.problem(f'[hub]\nnode = "{value}"') == f"hub.node: {reason}"


def test_any_key_may_come_from_a_file(folder: Folder) -> None:
    """Its content is stripped and taken as it is, without variables; lists and numbers as well."""
    (folder.path / "url").write_text("amqp://u:${p}@mq\n\n")
    (folder.path / "number").write_text(" 7\n")
    (folder.path / "list").write_text("read\nwrite\n")
    (folder.path / "mover").write_text("local:/x\n")
    config = folder.load(
        '[queue]\nurl_file = "${NAME:-url}"\n[limits]\nconnections_file = "number"\n[auth]\nanonymous_file = "list"\n'
        '[transfers.movers]\nfile_file = "mover"',
        needed='[archive]\nurl = "file:///srv/archive"\n',
    )
    assert config.queue.url == "amqp://u:${p}@mq"
    assert config.limits.connections == 7
    assert config.auth.anonymous == ("read", "write")
    assert config.transfers.movers == {"file": "local:/x"}


def test_file_of_a_key_that_can_not_be_read(folder: Folder) -> None:
    """It is told under the name it was given by; both ways at once are one too many."""
    (folder.path / "binary").write_bytes(b"\xff")
    problems = folder.problems(
        '[hub]\nnode_file = "nowhere"\nstate_file = "."\ndrain_file = 3\nmin_free = "1 GB"\nmin_free_file = "binary"\n'
        '[queue]\nurl_file = "binary"\n[database]\nulr_file = "x"\n'
    )
    assert problems == (
        f"hub.state_file: there is no file {folder.path}; paths are relative to {folder.path}",
        f"hub.node_file: there is no file {folder.path}/nowhere; paths are relative to {folder.path}",
        "hub.min_free: is given twice, as min_free and as min_free_file; keep one of them",
        "hub.drain_file: is 3; it must be the path of a file",
        "database.ulr_file: is not a known key; known are url, wait",
        f"queue.url_file: {folder.path}/binary can't be read: it is not UTF-8 text",
    )


def test_token_in_three_ways(folder: Folder) -> None:
    """As itself, in a file, as a hash: only the digest is kept."""
    (folder.path / "secret").write_text("bob's\n")
    digests = [hashlib.sha256(token).hexdigest() for token in (b"alice's", b"bob's", b"carol's")]
    config = folder.load(
        '[auth.tokens]\nalice = { token = "alice\'s", scopes = ["read", "read"] }\n'
        'bob = { token_file = "secret", scopes = ["transfers:admin"] }\n'
        f'"carol@x.org" = {{ hash = "sha256:{digests[2].upper()}", scopes = ["write"] }}'
    )
    assert config.auth.tokens == (
        TokenSection("alice", digests[0], ("read",)),
        TokenSection("bob", digests[1], ("transfers:admin",)),
        TokenSection("carol@x.org", digests[2], ("write",)),
    )
    assert "alice's" not in repr(config)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("", "alice: must have exactly one of token, token_file or hash (`datahub token` prints a hash)"),
        (f'token = "hunter2"\nhash = "sha256:{"0" * 64}"', "alice: must have exactly one of token, token_file or hash"),
        ('hash = "hunter2"', "alice.hash: must be sha256: and 64 hexadecimal digits"),
        ('token = "hunter2 hunter2"', "alice.token: must be printable ASCII without blanks"),
        ("token = 2", "alice.token: must be printable ASCII without blanks"),
    ],
)
def test_wrong_token_is_not_shown(folder: Folder, keys: str, reason: str) -> None:
    """What is wrong is said without the secret."""
    only = folder.problem(f'[auth.tokens.alice]\nscopes = ["read"]\n{keys}')
    assert only.startswith(f"auth.tokens.{reason}")
    assert "hunter2" not in only


def test_token_of_two_callers(folder: Folder) -> None:
    """One token can't be two people's, in whichever way it is written."""
    digest = hashlib.sha256(b"same").hexdigest()
    only = folder.problem(
        '[auth.tokens]\na = { token = "same", scopes = ["read"] }\n'
        f'b = {{ hash = "sha256:{digest}", scopes = ["read"] }}'
    )
    assert only == "auth.tokens: a and b have the same token; give each caller one of its own"


@pytest.mark.parametrize("name", ["me", "*", "a b", "anonymous@127.0.0.1", "a\\nb", ""])
def test_name_that_could_be_mistaken(folder: Folder, name: str) -> None:
    """A caller's name stands in logs and filters, where these mean something else."""
    only = folder.problem(f'[auth.tokens."{name}"]\ntoken = "x"\nscopes = ["read"]')
    assert "is no name for a caller" in only
