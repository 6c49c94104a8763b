"""The host's command: what it prints, and how it ends."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from datahub import __version__
from datahub.command import main
from datahub.config import load

NEEDED = '[archive]\nurl = "file:///srv/archive"\n[transfers.movers]\nfile = "local:/srv/deliveries"\n'


def run(*arguments: str, **environ: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, arguments, env=environ)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that is fine."""
    file = tmp_path / "datahub.toml"
    file.write_text(NEEDED)
    return file


def test_version() -> None:
    """Name and version."""
    assert run("--version").output == f"datahub {__version__}\n"


def test_fine_configuration(config: Path) -> None:
    """Found by the option or by the environment."""
    for ended in (run("check-config", "--config", str(config)), run("check-config", DATAHUB_CONFIG=str(config))):
        assert (ended.exit_code, ended.output) == (0, f"{config} is fine\n")


def test_fine_configuration_with_warnings(config: Path) -> None:
    """A warning is no error."""
    config.write_text(NEEDED + '[[listen]]\nendpoint = "tcp:80"\nanonymous = ["read"]')
    ended = run("check-config", "-c", str(config))
    assert ended.exit_code == 0
    warning, fine = ended.output.splitlines()
    assert warning.startswith("warning: listen[0]: callers without credentials may read here")
    assert fine == f"{config} is fine"


def test_wrong_configuration(config: Path) -> None:
    """All errors on standard error, exit code 1."""
    config.write_text("[hub]\nnode = 3")
    ended = run("check-config", "-c", str(config))
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert [line.split(": ")[2] for line in ended.stderr.splitlines()] == ["hub.node", "archive.url"]


def test_missing_configuration(tmp_path: Path) -> None:
    """A file that is not there is named."""
    ended = run("check-config", "-c", str(tmp_path / "x.toml"))
    assert ended.exit_code == 1
    assert ended.stderr == f"datahub: {tmp_path}/x.toml: is not there; name another by --config or $DATAHUB_CONFIG\n"


@pytest.mark.parametrize(("name", "scopes"), [("alice", ()), ("bob@example.org", ("transfers:read", "admin"))])
def test_token_and_its_section_belong_together(config: Path, name: str, scopes: tuple[str, ...]) -> None:
    """The section printed, pasted into the configuration, lets in who has the token printed."""
    ended = run("token", name, *(part for scope in scopes for part in ("--scope", scope)))
    assert ended.exit_code == 0
    token = ended.output.splitlines()[2].strip()
    section = ended.output[ended.output.index("[auth.tokens") :]
    assert len(token) >= 32
    assert token not in section
    config.write_text(NEEDED + section)
    (made,) = load(config, {}).auth.tokens
    assert (made.name, made.scopes) == (name, scopes or ("read", "write"))
    assert made.digest == hashlib.sha256(token.encode()).hexdigest()


def test_no_two_tokens_are_alike() -> None:
    """Without a name it is the operator's, and it is made anew each time."""
    first, second = run("token").output, run("token").output
    assert first != second
    assert "operator" in tomllib.loads(first[first.index("[auth") :])["auth"]["tokens"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("me",), '"me" must be letters'),
        (("a b",), '"a b" must be letters'),
        (("--scope", "root"), 'is "root"; it must be read, write or admin'),
        (("--scope", "carriages:write"), 'is "carriages:write"; it must be read, write or admin'),
    ],
)
def test_token_the_hub_would_refuse(arguments: tuple[str, ...], reason: str) -> None:
    """No token is made that the configuration could not hold."""
    ended = run("token", *arguments)
    assert ended.exit_code == 2
    assert reason in ended.stderr
