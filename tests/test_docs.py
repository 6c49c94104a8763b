"""The documents say what the code does: every error code, and the OpenAPI description."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from datahub import __version__
from datahub.carts.pacifica import CartdRoutes
from datahub.carts.routes import CartRoutes
from datahub.health.events import EventRoutes
from datahub.health.routes import Health
from datahub.jobs.routes import JobRoutes
from datahub.messages.routes import MessageRoutes
from datahub.sandboxes.routes import SandboxRoutes
from datahub.transfers.routes import TransferRoutes
from datahub.web.openapi import describe

SERVED = (Health, EventRoutes, TransferRoutes, CartRoutes, CartdRoutes, JobRoutes, SandboxRoutes, MessageRoutes)
TOP = Path(__file__).parent.parent
# Codes of errors that never reach a caller: they stay between the hub's parts.
INSIDE = {"hub.start", "work.delivery_lost", "work.final", "work.passing", "work.superseded"}


def codes_in(source: str) -> Iterator[str]:
    """The error codes that ``source`` gives: as keyword ``code=``, as class attribute, or in an answer's header."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.keyword(arg="code", value=ast.Constant(value=str(code))):
                yield code
            case ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code))):
                yield code
            case ast.Dict():
                yield from _codes_in_dict(node)


def _codes_in_dict(node: ast.Dict) -> Iterator[str]:
    for key, value in zip(node.keys, node.values, strict=True):
        match key, value:
            case ast.Constant(value="code" | "X-Datahub-Error"), ast.Constant(value=str(code)):
                yield code


def test_every_error_code_is_listed() -> None:
    """docs/api.md has each code that a caller can meet, and no other."""
    used = {code for file in (TOP / "datahub").rglob("*.py") for code in codes_in(file.read_text())}
    listed = set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| \d{3} \|", (TOP / "docs/api.md").read_text(), re.MULTILINE))
    assert listed == used - INSIDE


def test_a_code_is_found_wherever_it_is_given() -> None:
    """The search sees all the ways in which the code gives one."""
    source = (
        'class A:\n    code = "a.a"\nraise B("x", code="b.b")\nheaders = {"X-Datahub-Error": "c.c", "code": "d.d"}\n'
    )
    assert sorted(codes_in(source)) == ["a.a", "b.b", "c.c", "d.d"]


def test_openapi_description_is_that_of_the_code() -> None:
    """docs/openapi.json is what the routes say; `make openapi` writes it anew."""
    described = describe([each.app for each in SERVED], __version__)
    assert msgspec.json.decode((TOP / "docs/openapi.json").read_bytes()) == described
