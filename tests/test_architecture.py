"""The house rules that no tool knows: who may import whom, how long things may be, what no code may do."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FILE = 500
MAX_FUNCTION = 60

# Who may import whom. A capability is a folder of its own kind; none imports another.
CAPABILITIES = {"transfers", "carts", "jobs", "sandboxes", "messages", "health", "dashboard"}
BELOW_CAPABILITIES = {"web", "auth", "archive", "work", "events", "store", "queues", "files", "processes"}
EVERYWHERE = {"kit", "errors", "config", "values"}
BELOW = {
    "tap": {"hub"},
    "command": {"tap", "auth"},
    "hub": {"assembly", *CAPABILITIES, *BELOW_CAPABILITIES},
    "assembly": {*CAPABILITIES, *BELOW_CAPABILITIES},
    **dict.fromkeys(CAPABILITIES, BELOW_CAPABILITIES),
    "web": {"auth", "files"},
    "auth": set(),
    "archive": {"store", "processes", "files"},
    "work": {"events", "store", "queues"},
    "events": {"store", "queues"},
    "store": set(),
    "queues": set(),
    "files": set(),
    "processes": set(),
}
# Behind each port the modules that implement it; only hub.py and assembly/, and the package itself, may name them.
IMPLEMENTATIONS = {
    "datahub.queues.embedded",
    "datahub.queues.amqp",
    "datahub.messages.stores.database",
    "datahub.messages.stores.redis",
    "datahub.archive.local",
    "datahub.archive.pacifica",
    "datahub.transfers.movers.local",
    "datahub.transfers.movers.gfal",
    "datahub.transfers.stagers.archive",
    "datahub.transfers.stagers.callback",
}
ROOTS = {"hub", "assembly"}
# The reactor is taken where a process begins, and handed on from there.
MAY_TAKE_THE_REACTOR = {"datahub/tap.py", "datahub/hub.py", "datahub/command.py"}


@dataclass(frozen=True)
class Source:
    """One file: its path from the root of the repository, and its text."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def part(self) -> str:
        """The first name below ``datahub``: the room of the house."""
        parts = Path(self.path).with_suffix("").parts
        return parts[1] if len(parts) > 1 else ""

    @property
    def module(self) -> str:
        return ".".join(Path(self.path).with_suffix("").parts).removesuffix(".__init__")


Rule = Callable[[Source], Iterator[str]]


def sources(*folders: str) -> list[Source]:
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [Source(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in files]


def broken(rule: Rule, files: list[Source]) -> list[str]:
    return [f"{each.path}:{fault}" for each in files for fault in rule(each)]


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Give line and full name of all that is imported, names taken from a package included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imports_to_the_right(source: Source) -> Iterator[str]:
    """An import goes from left to right only."""
    allowed = EVERYWHERE | {source.part}
    if source.part not in EVERYWHERE:
        allowed |= BELOW.get(source.part, set())
    for line, name in imported(source.tree):
        parts = name.split(".")
        if parts[0] != "datahub" or parts[1] == "__version__" or source.part == "__init__":
            continue
        if parts[1] not in allowed:
            yield f"{line}: {source.part} imports {name}"


def names_implementations(source: Source) -> Iterator[str]:
    """Only the composition root names what is behind a port."""
    for line, name in imported(source.tree):
        for implementation in IMPLEMENTATIONS:
            own = source.module == implementation
            if (name + ".").startswith(implementation + ".") and source.part not in ROOTS and not own:
                yield f"{line}: {name} is named by hub.py and assembly/ alone"


def long_files(source: Source) -> Iterator[str]:
    """No file has more than 500 lines."""
    lines = source.text.count("\n")
    if lines > MAX_FILE:
        yield f"1: {lines} lines"


def long_functions(source: Source) -> Iterator[str]:
    """No function spans more than 60 lines."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            span = (node.end_lineno or node.lineno) - node.lineno + 1
            if span > MAX_FUNCTION:
                yield f"{node.lineno}: {node.name} has {span} lines"


def global_time(source: Source) -> Iterator[str]:
    """Time comes from a clock that is handed in."""
    taken = {"time.time", "datetime.now", "datetime.utcnow", "datetime.datetime.now", "datetime.datetime.utcnow"}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in taken:
            yield f"{node.lineno}: {ast.unparse(node.func)}() is the world's time, not the clock's"
    for line, name in imported(source.tree):
        if name == "time.time":
            yield f"{line}: time.time is the world's time, not the clock's"


def global_reactor(source: Source) -> Iterator[str]:
    """The reactor is taken where the process begins."""
    for line, name in imported(source.tree):
        if name.startswith("twisted.internet.reactor") and source.path not in MAY_TAKE_THE_REACTOR:
            yield f"{line}: the reactor is handed in, not imported"


def inline_callbacks(source: Source) -> Iterator[str]:
    """There is one style of waiting."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.alias):
            name = getattr(node, "id", getattr(node, "attr", getattr(node, "name", "")))
            if name in {"inlineCallbacks", "returnValue", "ensureDeferred"}:
                yield f"{node.lineno}: {name}; write async def"


def swallowed_cancellation(source: Source) -> Iterator[str]:
    """Twisted's CancelledError is an Exception: around an await it is re-raised before Exception is caught."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Try) and any(_waits(each) for each in node.body):
            yield from _swallowing(node.handlers)


def _waits(node: ast.AST) -> bool:
    """Whether ``node`` waits in its own function: an inner one waits elsewhere."""
    if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
        return True
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return False
    return any(_waits(each) for each in ast.iter_child_nodes(node))


def _swallowing(handlers: list[ast.ExceptHandler]) -> Iterator[str]:
    for handler in handlers:
        caught = ast.unparse(handler.type) if handler.type else "BaseException"
        if "CancelledError" in caught:
            return
        names = {each.strip(" ()") for each in caught.split(",")}
        if names & {"Exception", "BaseException"} and not _always_raises(handler.body):
            yield f"{handler.lineno}: catches {caught} around an await, and CancelledError with it"


def _always_raises(body: list[ast.stmt]) -> bool:
    """Whether the exception goes on after the clean-up."""
    return bool(body) and isinstance(body[-1], ast.Raise)


def undocumented_tests(source: Source) -> Iterator[str]:
    """Every test says in a sentence what holds."""
    for node in ast.walk(source.tree):
        is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if is_test and not ast.get_docstring(node):  # type: ignore[arg-type]  # a function, by is_test
            yield f"{node.lineno}: {node.name} has no docstring"  # type: ignore[attr-defined]


PRODUCT = [imports_to_the_right, names_implementations, global_time, global_reactor, inline_callbacks]
ALL_CODE = [long_files, long_functions, swallowed_cancellation]

LONG_FUNCTION = "def story():\n" + "    pass\n" * MAX_FUNCTION
SWALLOW = "async def f():\n    try:\n        await g()\n    except {caught}:\n        {then}\n"


@pytest.mark.parametrize("rule", PRODUCT, ids=lambda rule: rule.__name__)
def test_the_hub_keeps_the_rule(rule):
    """No module of the hub breaks it."""
    assert broken(rule, sources("datahub")) == []


@pytest.mark.parametrize("rule", ALL_CODE, ids=lambda rule: rule.__name__)
def test_all_code_keeps_the_rule(rule):
    """Neither the hub nor its tests and benchmarks break it."""
    assert broken(rule, sources("datahub", "tests", "benchmarks", "examples", "twisted")) == []


def test_every_test_has_a_docstring():
    """A reader of the report knows what each test is for."""
    assert broken(undocumented_tests, sources("tests")) == []


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (imports_to_the_right, "datahub/store/engine.py", "from datahub.web.app import App"),
        (imports_to_the_right, "datahub/store/engine.py", "def f():\n    import datahub.hub"),
        (imports_to_the_right, "datahub/carts/routes.py", "from datahub.transfers import model"),
        (imports_to_the_right, "datahub/health/routes.py", "from datahub import transfers"),
        (imports_to_the_right, "datahub/kit/aio.py", "from datahub.store import engine"),
        (imports_to_the_right, "datahub/auth/gate.py", "from datahub.web.errors import answer"),
        (names_implementations, "datahub/work/lane.py", "from datahub.queues.amqp import AmqpQueue"),
        (names_implementations, "datahub/transfers/service.py", "from datahub.archive import local"),
        (long_files, "datahub/web/app.py", "\n" * (MAX_FILE + 1)),
        (long_functions, "datahub/web/app.py", LONG_FUNCTION),
        (global_time, "datahub/kit/clock.py", "import time\nnow = time.time()"),
        (global_time, "datahub/kit/clock.py", "from time import time"),
        (global_time, "datahub/kit/clock.py", "from datetime import datetime\nnow = datetime.now()"),
        (global_reactor, "datahub/kit/aio.py", "from twisted.internet import reactor"),
        (global_reactor, "datahub/kit/aio.py", "import twisted.internet.reactor"),
        (inline_callbacks, "datahub/kit/aio.py", "from twisted.internet.defer import inlineCallbacks"),
        (inline_callbacks, "datahub/kit/aio.py", "@defer.inlineCallbacks\ndef f(): yield"),
        (swallowed_cancellation, "datahub/kit/aio.py", SWALLOW.format(caught="Exception", then="pass")),
        (swallowed_cancellation, "datahub/kit/aio.py", SWALLOW.format(caught="(KeyError, Exception)", then="pass")),
        (swallowed_cancellation, "datahub/kit/aio.py", SWALLOW.format(caught="BaseException", then="return")),
        (swallowed_cancellation, "datahub/kit/aio.py", SWALLOW.replace(" {caught}", "").format(then="pass")),
        (undocumented_tests, "tests/kit/test_aio.py", "async def test_it(): pass"),
    ],
)
def test_a_rule_finds_what_breaks_it(rule, path, text):
    """Each rule can fail."""
    assert len(list(rule(Source(path, text)))) == 1


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (imports_to_the_right, "datahub/hub.py", "from datahub.transfers.service import Transfers"),
        (
            imports_to_the_right,
            "datahub/carts/routes.py",
            "from datahub.web.app import App\nfrom datahub import errors",
        ),
        (imports_to_the_right, "datahub/work/lane.py", "from datahub.queues import Queue"),
        (names_implementations, "datahub/hub.py", "from datahub.queues.amqp import AmqpQueue"),
        (
            names_implementations,
            "datahub/assembly/messages.py",
            "from datahub.messages.stores.redis import RedisMessages",
        ),
        (global_reactor, "datahub/tap.py", "from twisted.internet import reactor"),
        (swallowed_cancellation, "datahub/a.py", SWALLOW.format(caught="Exception", then="raise")),
        (swallowed_cancellation, "datahub/a.py", SWALLOW.format(caught="KeyError", then="pass")),
        (
            swallowed_cancellation,
            "datahub/a.py",
            SWALLOW.replace("await g()", "g()").format(caught="Exception", then="pass"),
        ),
        (
            swallowed_cancellation,
            "datahub/a.py",
            SWALLOW.format(caught="CancelledError", then="raise") + "    except Exception:\n        pass\n",
        ),
    ],
)
def test_a_rule_lets_pass_what_is_right(rule, path, text):
    """No rule forbids what the house allows."""
    assert list(rule(Source(path, text))) == []


def test_every_part_of_the_house_has_its_place():
    """A new folder below datahub is put into the order of imports before it is used."""
    known = {*BELOW, *EVERYWHERE, "__init__"}
    assert {each.part for each in sources("datahub")} - known == set()


def test_twisted_stays_twisteds():
    """A package file in our twisted folder would hide Twisted itself, or the plugin."""
    assert not list((ROOT / "twisted").rglob("__init__.py"))


def test_every_package_is_in_the_distribution():
    """A folder that setup.cfg does not list would be missing from the wheel only."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "datahub").rglob("*.py")}
    assert listed == {".".join(folder.parts) for folder in folders} | {"twisted.plugins"}
