"""What is in etc/: it tells of every key at its default, and it works."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from datahub.config import Config, TokenKeys, TokenSection, load
from datahub.kit.settings import ABSENT, declared

SAMPLE = Path(__file__).parents[1] / "etc" / "datahub.toml"


def known(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that config.py declares, with its default as it would be written."""
    types = get_type_hints(cls)
    for name, key in declared(cls).items():
        inner = [each for each in (types[name], *getattr(types[name], "__args__", ())) if hasattr(each, "__slots__")]
        sections = [each for each in inner if isinstance(each, type) and hasattr(each, "__dataclass_fields__")]
        if sections == [TokenSection]:
            yield from known(TokenKeys, f"{prefix}{name}.*.")
        elif sections:
            yield from known(sections[0], f"{prefix}{name}.")
        else:
            yield prefix + name, key.default


def keys_in(document: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that a document gives; callers, schemes and namespaces are free, so they count as their table."""
    for name, value in document.items():
        path = f"{prefix}{name}"
        if path in {"transfers.movers", "transfers.weights", "log.levels"}:
            yield path, value
        elif path == "transfers.mover_options":
            for each in value.values():
                yield from keys_in(each, f"{path}.")
        elif isinstance(value, dict):
            yield from keys_in(value, "auth.tokens.*." if prefix == "auth.tokens." else f"{path}.")
        elif name == "listen":
            for each in value:
                yield from keys_in(each, "listen.")
        else:
            yield path, value


def test_sample_has_every_key_at_its_default(tmp_path: Path) -> None:
    """What stands in the shipped file is what the program takes by itself; what has no default stands in comments."""
    text = SAMPLE.read_text("utf-8")
    given = dict(keys_in(tomllib.loads(text)))
    defaults = dict(known(Config))
    needed = {"archive.url": "file:///srv/archive", "transfers.movers": {"file": "local:/srv/deliveries"}}
    assert {path: given.pop(path) for path in needed} == needed
    assert given == {
        path: list(value) if isinstance(value, tuple) else value for path, value in defaults.items() if path in given
    }

    (tmp_path / "hub.pem").touch()
    (tmp_path / "hub.key").touch()
    (tmp_path / "ca.pem").touch()
    (tmp_path / "proxy.pem").touch()
    (tmp_path / "certificates").mkdir()
    (tmp_path / "davs.token").write_text("a-token\n")
    shown = re.sub(r"^# ((?:\[.+\]|\w+ = .+))$", r"\1", text, flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(shown, "utf-8")
    everything = load(tmp_path / "all.toml", {})
    assert {path for path, _ in keys_in(tomllib.loads(shown))} == set(defaults)
    commented = set(defaults) - set(given) - set(needed)
    without = {path for path in commented if defaults[path] in (ABSENT, None, {}) or callable(defaults[path])}
    assert commented == without
    assert [each.name for each in everything.auth.tokens] == ["alice", "bob"]


def test_sample_loads_as_the_defaults(tmp_path: Path) -> None:
    """The shipped file says what a file with nothing but what is needed says."""
    file = tmp_path / "datahub.toml"
    file.write_text('[archive]\nurl = "file:///srv/archive"\n[transfers.movers]\nfile = "local:/srv/deliveries"\n')
    assert replace(load(SAMPLE, {}), folder=tmp_path) == load(file, {})


def test_every_key_of_the_sample_is_explained() -> None:
    """A comment of words stands over each key, or over the group it is in."""
    above = ""
    for line in SAMPLE.read_text("utf-8").splitlines():
        if re.match(r"(# )?\w+ = ", line):
            assert re.match(r"# .*[a-z]|(# )?\w+ = |# \[", above), f"{line} has no explanation"
        above = line


@pytest.mark.parametrize("name", ["datahub.service", "datahub-jobs.service"])
def test_unit_file_waits_longer_than_the_hub(name: str) -> None:
    """Else systemd would kill a hub that still drains, stops its jobs, or still tries its database."""
    unit = ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    unit.read(SAMPLE.with_name(name))
    config = load(SAMPLE, {})
    assert float(unit["Service"]["TimeoutStopSec"].removesuffix("s")) > config.hub.drain + config.jobs.grace
    assert float(unit["Service"]["TimeoutStartSec"].removesuffix("s")) > config.database.wait
    assert int(unit["Service"]["LimitNOFILE"]) > 2 * config.limits.connections
    assert unit["Service"]["KillMode"] == "mixed"
