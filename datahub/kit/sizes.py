"""Sizes and durations as people write them: "2 GB", "16 KiB", "30 s", "5 min"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

__all__ = ["count", "format_duration", "format_size", "parse_duration", "parse_size"]

_BYTES: Final = {
    "B": 1,
    "kB": 1000,
    "KiB": 1024,
    "MB": 1000**2,
    "MiB": 1024**2,
    "GB": 1000**3,
    "GiB": 1024**3,
    "TB": 1000**4,
    "TiB": 1024**4,
}
_MILLISECONDS: Final = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_QUANTITY: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) *(?P<unit>[A-Za-z]*)", re.ASCII)


def parse_size(text: str) -> int:
    """Read a size such as "2 GB" or "16KiB" in bytes; a bare number is bytes.

    Raises `ValueError`, saying what would be right.
    """
    return _parse(text, _BYTES, "B", 'a size such as "64 KiB" or "2 GB"')


def parse_duration(text: str) -> float:
    """Read a duration such as "30 s" or "400d" in seconds.

    Raises `ValueError`, saying what would be right; a number without a unit is refused.
    """
    return _parse(text, _MILLISECONDS, "", 'a duration such as "30 s", "5 min", "2 h" or "7 d"') / 1000


def format_size(size: int) -> str:
    """Write ``size`` bytes for people: exactly where that is short, else in powers of 1000 with one decimal."""
    if size < 1000:
        return f"{size} B"
    return _format(size, _BYTES, {unit: _BYTES[unit] for unit in ("kB", "MB", "GB", "TB")})


def format_duration(seconds: float) -> str:
    """Write ``seconds`` for people: exactly where that is short, else with one decimal."""
    return _format(round(seconds * 1000), _MILLISECONDS, _MILLISECONDS)


def count(number: int, what: str) -> str:
    """Write how many of ``what`` there are, a noun that takes an s."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _parse(text: str, units: Mapping[str, int], bare: str, wanted: str) -> int:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'is "{text}"; it must be {wanted}')
    unit = match["unit"] or bare
    if unit not in units:
        wrong = f'the unit "{unit}" is not known' if unit else "the unit is missing"
        raise ValueError(f'is "{text}": {wrong} ({", ".join(units)}); it must be {wanted}')
    return int(Decimal(match["number"]) * units[unit])


def _format(amount: int, units: Mapping[str, int], rounding: Mapping[str, int]) -> str:
    """Prefer the exact unit with the smallest number below 1000, else round to one decimal."""
    exact = {unit: amount // factor for unit, factor in units.items() if amount and amount % factor == 0}
    short = {unit: number for unit, number in exact.items() if number < 1000}
    if short:
        unit = min(short, key=short.__getitem__)
        return f"{short[unit]} {unit}"
    smallest = min(rounding, key=rounding.__getitem__)
    unit = max((each for each in rounding if rounding[each] <= amount), key=rounding.__getitem__, default=smallest)
    number = f"{amount / rounding[unit]:.1f}".removesuffix(".0")
    return f"{number} {unit}"
