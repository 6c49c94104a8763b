"""A configuration in a folder of its own, loaded or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from datahub.config import Config, ConfigError, load

NEEDED_PARTS = ('[archive]\nurl = "file:///srv/archive"\n', '[transfers.movers]\nfile = "local:/srv/deliveries"\n')
NEEDED = "".join(NEEDED_PARTS)


class Folder:
    """A configuration's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, text: str, environ: Mapping[str, str] | None = None, needed: str = NEEDED) -> Config:
        file = self.path / "datahub.toml"
        file.write_text(needed + text, "utf-8")
        return load(file, environ or {})

    def problems(self, text: str, environ: Mapping[str, str] | None = None, needed: str = NEEDED) -> tuple[str, ...]:
        with pytest.raises(ConfigError) as caught:
            self.load(text, environ, needed)
        assert str(caught.value).splitlines() == list(caught.value.problems)
        return caught.value.problems

    def problem(self, text: str, environ: Mapping[str, str] | None = None) -> str:
        (only,) = self.problems(text, environ)
        return only
