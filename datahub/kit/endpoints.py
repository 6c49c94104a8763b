"""Endpoint strings such as ``tcp:8080:interface=127.0.0.1``, checked without opening anything."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Endpoint", "parse_endpoint"]

# kind -> the name of its first, unnamed argument and of all it takes
_KINDS: Final[Mapping[str, tuple[str, frozenset[str]]]] = {
    "tcp": ("port", frozenset({"port", "interface", "backlog"})),
    "tcp6": ("port", frozenset({"port", "interface", "backlog"})),
    "unix": ("address", frozenset({"address", "mode", "backlog", "lockfile"})),
    "systemd": ("domain", frozenset({"domain", "index", "name"})),
}
_EXAMPLE: Final = '"tcp:8080:interface=127.0.0.1"'


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server endpoint's kind and arguments."""

    kind: str
    arguments: Mapping[str, str]

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it; of a socket handed over by systemd that is not known: no."""
        if self.kind == "unix":
            return True
        interface = self.arguments.get("interface", "")
        if interface == "localhost":
            return True
        try:
            return ipaddress.ip_address(interface).is_loopback
        except ValueError:
            return False


def parse_endpoint(text: str) -> Endpoint:
    """Read a Twisted server endpoint string of kind tcp, tcp6, unix or systemd.

    Raises `ValueError`, saying what would be right.
    """
    kind, *parts = (re.sub(r"\\(.)", r"\1", part) for part in re.split(r"(?<!\\):", text))
    if kind not in _KINDS:
        raise ValueError(f'is "{text}"; it must start with {", ".join(f"{each}:" for each in _KINDS)} like {_EXAMPLE}')
    first, known = _KINDS[kind]
    arguments: dict[str, str] = {}
    for position, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if not equals and position == 0:
            name, value = first, part
        if name not in known:
            raise ValueError(f'is "{text}": {kind}: takes {", ".join(sorted(known))}, not "{part}"')
        arguments[name] = value
    _check_target(text, first, arguments)
    return Endpoint(kind, arguments)


def _check_target(text: str, first: str, arguments: Mapping[str, str]) -> None:
    target = arguments.get(first, "")
    if not target:
        raise ValueError(f'is "{text}": the {first} is missing; write it like {_EXAMPLE}')
    if first == "port" and not (target.isascii() and target.isdecimal() and int(target) <= 65535):
        raise ValueError(f'is "{text}": the port must be a number from 0 to 65535, not "{target}"')
