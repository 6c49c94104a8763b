"""Settings by declaration, on a document of its own."""

# ruff: noqa: RUF009 - key() gives dataclass its field

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from datahub.kit.settings import Given, ToldError, choice, declared, integer, key, mapping, optional, section, tables


@dataclass(frozen=True, slots=True)
class Wheel:
    spokes: int = key(integer(1, 99), example="36")


@dataclass(frozen=True, slots=True)
class Bicycle:
    front: Wheel = key(section(Wheel), example="{ spokes = 36 }")
    colour: str = key(choice("red", "blue"), "red")
    gears: int = key(integer(1, 30), lambda: 7)
    spare: tuple[Wheel, ...] = key(tables(Wheel), [])
    bell: str | None = key(optional(choice("ding")), None)
    stickers: dict[str, str] = key(mapping(lambda name, given: f"{name}: {given.string('words')}"), {})
    number: int = 0


def read(tmp_path: Path, document: Any, **environ: str) -> tuple[Bicycle | None, list[str]]:
    """What a bicycle's document gives, and what is wrong with it."""
    given = Given(document, tmp_path, environ)
    try:
        return section(Bicycle, later="motor")(given), given.problems
    except ToldError:
        return None, given.problems


def test_defaults_are_the_same_by_document_and_in_code(tmp_path: Path) -> None:
    """Whether a value is read or made by hand, what is not said is alike."""
    bicycle, problems = read(tmp_path, {"front": {"spokes": 36}})
    assert problems == []
    assert bicycle == Bicycle(Wheel(36))
    assert bicycle.gears == 7


def test_only_declared_fields_are_keys(tmp_path: Path) -> None:
    """Another field of the dataclass can't be set by a document."""
    assert "number" not in declared(Bicycle)
    assert read(tmp_path, {"front": {"spokes": 1}, "number": 3})[1][0].startswith("number: is not a known key")


def test_everything_is_read_in_its_place(tmp_path: Path) -> None:
    """Tables, arrays of tables and free keys nest, and each string may hold variables."""
    (tmp_path / "word").write_text("fast\n")
    document = {
        "front": {"spokes": "${SPOKES:-20}"},
        "spare": [{"spokes": 1}, {"spokes": 2}],
        "bell": "",
        "stickers": {"left": "go ${NAME}", "right_file": "word"},
    }
    bicycle, problems = read(tmp_path, document, NAME="Ada")
    assert problems == []
    assert bicycle == Bicycle(
        Wheel(20), spare=(Wheel(1), Wheel(2)), stickers={"left": "left: go Ada", "right": "right: fast"}
    )


def test_all_faults_are_collected_with_their_paths(tmp_path: Path) -> None:
    """One bad value hides no other, at no depth."""
    document = {
        "front": {},
        "colour": "green",
        "spare": [{"spokes": 0}, 3, {"spokes": True}],
        "stickers": {"left": 5},
        "motor": "big",
        "gear": 3,
    }
    bicycle, problems = read(tmp_path, document)
    assert bicycle is None
    assert problems == [
        "motor: is not in this version; leave it out",
        'gear: is not a known key; did you mean "gears"?',
        "front.spokes: is missing; write it like 36",
        'colour: is "green"; it must be one of red, blue',
        "spare[0].spokes: is 0; it must be a whole number from 1 to 99",
        "spare[1]: is 3; it must be a table of keys",
        "spare[2].spokes: is true; it must be a whole number from 1 to 99",
        "stickers.left: is 5; it must be words",
    ]


@pytest.mark.parametrize("evil", ["a\nb", "a\u2028b", "a\x1bb"])
def test_problem_is_one_line(tmp_path: Path, evil: str) -> None:
    """Whatever stands in a document."""
    _, problems = read(tmp_path, {evil: 1, "front": {"spokes": evil}})
    assert len(problems) == 2
    assert all(each.isprintable() for each in problems)
