"""Settings by declaration: a dataclass names its keys, how each is read and its default.

A reader takes what a document `Given` and returns what the program works with, or raises `ValueError` with what is
wrong and what would be right. All that is wrong in a document is collected, each with its path, before anything fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from datahub.kit.sizes import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "ABSENT",
    "Given",
    "Key",
    "Reader",
    "ToldError",
    "choice",
    "declared",
    "duration",
    "file",
    "integer",
    "key",
    "listed",
    "mapping",
    "optional",
    "section",
    "size",
    "switch",
    "tables",
    "text",
    "words",
]

T = TypeVar("T")
ABSENT: Final = object()
_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}?")
_NAMED: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.ASCII | re.DOTALL)


class ToldError(ValueError):
    """The value can't be read, and every reason is among the problems already."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value of the document at ``path``, and what it may draw on; ``problems`` collects what is wrong."""

    value: Any
    folder: Path
    environ: Mapping[str, str]
    problems: list[str] = field(default_factory=list)
    path: str = ""

    def at(self, name: str, value: Any = None) -> Given:
        """Give ``value`` the place of the key ``name`` in this table."""
        return replace(self, value=value, path=f"{self.path}.{name}" if self.path else name)

    def items(self) -> list[Given]:
        """Give the items of this list, counted from 0."""
        return [replace(self, value=each, path=f"{self.path}[{index}]") for index, each in enumerate(self.value)]

    def wrong(self, wanted: str) -> ValueError:
        """Make the error that shows the value and says what is ``wanted``; tables and lists are not spelled out."""
        kinds: dict[type, str] = {dict: "a table", list: "a list"}
        shown = kinds.get(type(self.value)) or json.dumps(self.value, ensure_ascii=False, default=str)
        return ValueError(f"is {shown}; it must be {wanted}")

    def string(self, wanted: str) -> str:
        """Give the value if it is a string, else raise the error with ``wanted``."""
        if isinstance(self.value, str) and "\0" not in self.value:
            return self.value
        raise self.wrong(wanted)

    def table(self) -> dict[str, Any]:
        """Give the value if it is a table."""
        if isinstance(self.value, dict):
            return self.value
        raise self.wrong("a table of keys")

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Collect a `ValueError` of the body as a problem of this place, in one line."""
        try:
            yield
        except ToldError:
            pass
        except ValueError as error:
            problem = f"{self.path}: {error}"
            self.problems.append("".join(each if each.isprintable() else repr(each)[1:-1] for each in problem))


Reader: TypeAlias = Callable[[Given], T]


@dataclass(frozen=True, slots=True)
class Key:
    """How one key is read; ``default`` is written as in the document, or a function that gives it."""

    read: Reader[Any]
    default: Any
    example: str

    def missing(self, place: Given) -> Any:
        """Give what the key is when nothing is said."""
        if self.default is ABSENT:
            raise ValueError(f"is missing; write it like {self.example}")
        return self.read(replace(place, value=self.default() if callable(self.default) else self.default))


def key(read: Reader[T], default: Any = ABSENT, example: str = "") -> T:
    """Declare a field of a frozen dataclass as a key; one without a default must be given, like ``example``."""
    declaration = Key(read, default, example)
    metadata = {"key": declaration}
    declared: Any = field(metadata=metadata)
    if default is not ABSENT:
        declared = field(default_factory=lambda: declaration.missing(Given(None, Path(), {})), metadata=metadata)
    return declared  # type: ignore[no-any-return]  # dataclass wants a field where the type is the value's


def declared(cls: type) -> dict[str, Key]:
    """Give the keys of a dataclass by name; its other fields are none."""
    return {each.name: each.metadata["key"] for each in fields(cls) if "key" in each.metadata}


def section(cls: type[T], later: str = "") -> Reader[T]:
    """Read a table into the dataclass ``cls``; keys named in ``later`` belong to another version of the program."""

    def read(given: Given) -> T:
        keys, values = declared(cls), dict[str, Any]()
        _check_names(given, set(keys), set(later.split()))
        for name, each in keys.items():
            with given.at(name).telling():
                said = _said(given, name)
                values[name] = each.missing(said) if said.value is ABSENT else each.read(said)
        if len(values) < len(keys):
            raise ToldError
        return cls(**values)

    return read


def tables(cls: type[T], later: str = "") -> Reader[tuple[T, ...]]:
    """Read an array of tables, each into the dataclass ``cls``."""
    read_one = section(cls, later)

    def read(given: Given) -> tuple[T, ...]:
        if isinstance(given.value, list):
            return _each(read_one, given)
        raise given.wrong(f"written as [[{given.path}]], with two brackets")

    return read


def mapping(read_one: Callable[[str, Given], T]) -> Reader[dict[str, T]]:
    """Read a table whose keys are free; ``read_one`` is told the name of each."""

    def read(given: Given) -> dict[str, T]:
        found: dict[str, T] = {}
        table = given.table()
        names = dict.fromkeys(name.removesuffix("_file") if isinstance(table[name], str) else name for name in table)
        for name in names:
            with given.at(name).telling():
                found[name] = read_one(name, _said(given, name))
        if len(found) < len(names):
            raise ToldError
        return found

    return read


def optional(read_one: Reader[T]) -> Reader[T | None]:
    """Read what may be absent: None, or an empty string, is None."""

    def read(given: Given) -> T | None:
        return None if given.value in (None, "") else read_one(given)

    return read


def text(pattern: str, wanted: str) -> Reader[str]:
    """Read a string that matches ``pattern`` as a whole; ``wanted`` says so to people."""

    def read(given: Given) -> str:
        if re.fullmatch(pattern, given.string(wanted), re.ASCII):
            return str(given.value)
        raise given.wrong(wanted)

    return read


def choice(*names: str) -> Reader[str]:
    """Read one of ``names``."""

    def read(given: Given) -> str:
        if given.value in names:
            return str(given.value)
        raise given.wrong(f"one of {', '.join(names)}")

    return read


def words(check: Callable[[str], str], at_least: int = 0) -> Reader[tuple[str, ...]]:
    """Read a list of strings, each through ``check``; one string (a variable, a file) is split at commas and blanks."""

    def read(given: Given) -> tuple[str, ...]:
        if isinstance(given.value, str):
            given = replace(given, value=given.value.replace(",", " ").split())
        if not isinstance(given.value, list | tuple):
            raise given.wrong("a list of strings")
        if len(given.value) < at_least:
            raise ValueError("is empty; it must name at least one")
        return tuple(dict.fromkeys(_each(lambda item: check(item.string("a string")), given)))

    return read


def listed(given: Given) -> tuple[str, ...]:
    """Read a list of strings as they are, blanks and repetitions included: the arguments of a program."""
    if isinstance(given.value, list) and all(isinstance(each, str) for each in given.value):
        return tuple(given.value)
    raise given.wrong('a list of strings, such as ["nice", "-n", "10"]')


def integer(at_least: int, at_most: int) -> Reader[int]:
    """Read a whole number within the limits; a string of digits (a variable, a file) is one."""

    def read(given: Given) -> int:
        number = given.value
        if isinstance(number, str) and re.fullmatch("[0-9]{1,18}", number, re.ASCII):
            number = int(number)
        if type(number) is int and at_least <= number <= at_most:  # not isinstance: true is an int as well
            return number
        raise given.wrong(f"a whole number from {at_least} to {at_most}")

    return read


def size(at_least: str, at_most: str) -> Reader[int]:
    """Read a size within the limits, in bytes; a bare number is bytes."""
    low, high = parse_size(at_least), parse_size(at_most)

    def read(given: Given) -> int:
        wanted = f'a size from "{at_least}" to "{at_most}"'
        number = given.value if type(given.value) is int else parse_size(given.string(wanted))
        if low <= number <= high:
            return number
        raise ValueError(f"is {format_size(number)}; it must be {wanted}")

    return read


def duration(at_least: str, at_most: str) -> Reader[float]:
    """Read a duration within the limits, in seconds."""
    low, high = parse_duration(at_least), parse_duration(at_most)

    def read(given: Given) -> float:
        wanted = f'a duration from "{at_least}" to "{at_most}"'
        seconds = parse_duration(given.string(f"{wanted}, in quotes and with its unit"))
        if low <= seconds <= high:
            return seconds
        raise ValueError(f"is {format_duration(seconds)}; it must be {wanted}")

    return read


def switch(given: Given) -> bool:
    """Read true or false; as a string (a variable, a file) too."""
    found = {"true": True, "false": False}.get(given.value) if isinstance(given.value, str) else given.value
    if isinstance(found, bool):
        return found
    raise given.wrong("true or false")


def file(given: Given) -> Path:
    """Read the path of a file that is there, relative to the document's folder."""
    path = given.folder / given.string("the path of a file")
    try:
        found = path.is_file()
    except OSError as error:
        raise ValueError(f"{path} can't be looked at: {error.strerror}") from None
    if not found:
        raise ValueError(f"there is no file {path}; paths are relative to {given.folder}")
    return path


def _each(read: Reader[T], given: Given) -> tuple[T, ...]:
    found: list[T] = []
    for item in given.items():
        with item.telling():
            found.append(read(item))
    if len(found) < len(given.value):
        raise ToldError
    return tuple(found)


def _check_names(given: Given, known: set[str], later: set[str]) -> None:
    for name in given.table():
        either = {name, name.removesuffix("_file")}
        if either & known:
            continue
        with given.at(name).telling():
            if either & later:
                raise ValueError("is not in this version; leave it out")
            near = get_close_matches(name, sorted(known | later), n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(sorted(known))}"
            raise ValueError(f"is not a known key; {hint}")


def _said(given: Given, name: str) -> Given:
    """Give what the table says of ``name``, be it in a file; the value is `ABSENT` if nothing."""
    table, in_file = given.table(), f"{name}_file"
    if in_file not in table:
        return given.at(name, _expanded(table.get(name, ABSENT), given.environ))
    if name in table:
        raise ValueError(f"is given twice, as {name} and as {in_file}; keep one of them")
    with given.at(in_file).telling():
        return given.at(name, _content(file(given.at(in_file, _expanded(table[in_file], given.environ)))))
    raise ToldError


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} can't be read: it is not UTF-8 text") from None


def _expanded(value: Any, environ: Mapping[str, str]) -> Any:
    """Put in the environment's variables; a table's own values are expanded when it is read."""
    if isinstance(value, list):
        return [_expanded(each, environ) for each in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda found: _variable(found, environ), value)


def _variable(found: re.Match[str], environ: Mapping[str, str]) -> str:
    named = _NAMED.fullmatch(found[1]) if found[0].endswith("}") else None
    if named is None:
        raise ValueError(f'has "{found[0]}"; a variable is written ${{NAME}} or ${{NAME:-default}}')
    name, default = named.groups()
    if default is not None:
        return environ.get(name) or str(default)
    if name not in environ:
        raise ValueError(f"the environment has no {name}; set it, or give a default: ${{{name}:-default}}")
    return environ[name]
