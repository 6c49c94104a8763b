"""The section of the configuration that is about Mesos."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.configured import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Give a folder with configurations."""
    return Folder(tmp_path)


def test_sandbox(folder: Folder) -> None:
    """Masters, and how the hub is known to them."""
    text = (
        '[sandbox]\nmasters = ["http://one:5050", "https://two/mesos"]\nusername = "u"\npassword = "p"\nverify = false'
    )
    section = folder.load(text).sandbox
    assert section.masters == ("http://one:5050", "https://two/mesos")
    assert (section.username, section.password, section.verify, section.ca) == ("u", "p", False, None)
    assert (section.limit, section.state_ttl, section.agents) == (2**30, 5.0, "auto")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            'masters = ["mesos:5050"]',
            'masters[0]: is "mesos:5050"; it must be a URL like http://mesos.example.org:5050',
        ),
        ('masters = ["http://u:hunter2@mesos:5050"]', "masters[0]: has credentials in a URL"),
        ('masters = ["http://mesos:port"]', "masters[0]: is no URL"),
        ('username = "a:b"', 'username: is "a:b"; it must be a name without a colon'),
        ('password = "hun:ter2"', "password: must be a string without a colon"),
        ("password = 5", "password: must be a string without a colon"),
        ('verify = "perhaps"', 'verify: is "perhaps"; it must be true or false'),
        ('agents = "ftp"', "agents: is"),
        ('ca = "missing.pem"', "ca: there is no file"),
    ],
)
def test_sandbox_that_is_wrong(folder: Folder, text: str, reason: str) -> None:
    """It is said what is wrong, and no password is shown."""
    problem = folder.problem(f"[sandbox]\n{text}")
    assert problem.startswith(f"sandbox.{reason}")
    assert "hunter2" not in problem


def test_worker_without_work(folder: Folder) -> None:
    """A service that only answers has no work to be named for."""
    assert "it must be one of transfers" in folder.problem('[hub]\nworkers = ["sandbox"]')
