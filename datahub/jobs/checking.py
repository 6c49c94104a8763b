"""What is checked of a job before it is taken on, and what it is given where its submitter says nothing."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from datahub.errors import InvalidRequest
from datahub.jobs.model import Creation, Spec, check_texts, limits_of, seconds_of, texts_of
from datahub.kit.threads import Pool

__all__ = ["Checker", "Defaults", "first_word"]

LEAST_TIMEOUT: Final = 0.1
PLAIN: Final = re.compile(r"[A-Za-z0-9_./+@%:,^-]+", re.ASCII)
"""A word that bash takes as it stands."""

FIRST: Final = re.compile(r"\s*([^\s;&|<>()]*)(.?)", re.DOTALL)
"""A word and what stands behind it: a parenthesis makes it a function's name, an angle a number of a descriptor."""

WORDS: Final = """
! . : [ [[ alias bg bind break builtin caller case cd command compgen complete compopt continue coproc declare dirs
disown do done echo elif else enable esac eval exec exit export false fc fg fi for function getopts hash help history
if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return select set shift shopt
source suspend test then time times trap true type typeset ulimit umask unalias unset until wait while
"""
BASH_KNOWS: Final = frozenset(WORDS.split())
REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the configuration says; times in seconds, ``keep`` in bytes. ``wrapped``: commands run by another program.

    ``environ`` is what each job finds in its environment.
    """

    timeout: float
    grace: float
    keep: int
    limits: Mapping[str, int]
    cwd: str
    environ: Mapping[str, str]
    wrapped: bool


class Checker:
    """Makes of what was asked for what is run; raises `InvalidRequest`."""

    def __init__(self, defaults: Defaults, pool: Pool) -> None:
        self._defaults = defaults
        self._pool = pool
        self._found: set[tuple[str, str]] = set()

    async def check(self, creation: Creation) -> tuple[str, Spec]:
        """The command as it is shown, and how it is run."""
        argv = _argv(creation)
        env = creation.env or {}
        _check_env(env)
        cwd = self._defaults.cwd if creation.cwd is None else creation.cwd
        if not cwd.startswith("/"):
            raise InvalidRequest(f"cwd is {cwd[:60]!r}; it must be an absolute folder, such as /tmp", field="cwd")
        check_texts("cwd", [cwd])
        if creation.stdin is not None:
            _check_utf8("stdin", creation.stdin)
        if creation.name is not None:
            check_texts("name", [creation.name])
        spec = Spec(
            argv=argv,
            timeout=seconds_of("timeout", creation.timeout, self._defaults.timeout, LEAST_TIMEOUT),
            grace=seconds_of("grace", creation.grace, self._defaults.grace, 0),
            cwd=cwd,
            keep=self._defaults.keep,
            env=env,
            limits=limits_of(creation.limits, self._defaults.limits),
            stdin=creation.stdin,
            separate=creation.separate,
        )
        if creation.argv is None:
            await self._check_found(argv[-1], env, cwd)
            return argv[-1], spec
        return shlex.join(argv), spec

    async def _check_found(self, command: str, env: Mapping[str, str], cwd: str) -> None:
        """Refuse a command whose first word bash would not find, where that can be told from outside."""
        word = first_word(command)
        if word is None or word in BASH_KNOWS or self._defaults.wrapped:
            return
        path = env.get("PATH", self._defaults.environ.get("PATH", ""))
        if (word, path) in self._found:
            return
        if not await self._pool.run(_is_there, word, path, cwd):
            raise InvalidRequest(f"command: {word[:100]!r} is no program that is found here", field="command")
        if "/" not in word:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            self._found.add((word, path))


def first_word(command: str) -> str | None:
    """The word a command begins with, if bash would take it as the name of a program; None for other syntax."""
    word, behind = cast(re.Match[str], FIRST.match(command)).groups()
    return word if PLAIN.fullmatch(word) and behind not in {"(", "<", ">"} else None


def _is_there(word: str, path: str, cwd: str) -> bool:
    """Blocking."""
    if "/" in word:
        return os.access(os.path.join(cwd, word), os.X_OK)  # noqa: PTH118 - it may be absolute
    places = [os.path.join(cwd, folder, word) for folder in path.split(":")]  # noqa: PTH118
    return any(os.access(each, os.X_OK) and not os.path.isdir(each) for each in places)  # noqa: PTH112


def _argv(creation: Creation) -> list[str]:
    command, argv = creation.command, creation.argv
    if argv is not None:
        if command is not msgspec.UNSET:
            raise InvalidRequest("command and argv are both given; one is right", field="argv")
        if not argv or not argv[0]:
            raise InvalidRequest("argv is empty; it must be a program and its arguments", field="argv")
        check_texts("argv", argv)
        return argv
    if command is msgspec.UNSET:
        raise InvalidRequest("command is missing: a line for bash, or argv", field="command", code="request.missing")
    if not command.strip():
        raise InvalidRequest("command is blank; it must be a line for bash", field="command")
    check_texts("command", [command])
    return ["bash", "-c", command]


def _check_env(env: Mapping[str, str]) -> None:
    for name in env:
        if not name or "=" in name:
            raise InvalidRequest(f"env names a variable {name[:40]!r}, which there can't be", field="env")
    check_texts("env", texts_of(env))


def _check_utf8(field: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{field} holds half of a surrogate pair, which is no text", field=field) from None
