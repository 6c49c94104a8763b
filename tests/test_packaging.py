"""The package as a user gets it: installed in any way, ``twistd`` knows the hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("datahub", "twisted", "setup.cfg", "pyproject.toml", "README.md")


def run(*command: object, folder: Path) -> str:
    """Run ``command`` in ``folder`` and give what it prints; its words are in the error if it fails."""
    # Not the code that a developer may have on his path: what was installed.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(each) for each in command]
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Copy what the package is built from, so that building leaves nothing in the repository."""
    copy = tmp_path_factory.mktemp("source")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        elif source.exists():
            shutil.copy(source, copy / part)
    (copy / "README.md").touch()
    return copy


@pytest.fixture
def fresh_python(tmp_path):
    """Make an environment without the package that sees, through a path file, what this one has installed."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    path_file = place / "lib" / version / "site-packages" / "others.pth"
    path_file.write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin" / "python"


def install(python: Path, *what: object, folder: Path) -> None:
    """Install the package alone, with this environment's pip."""
    target = ("--python", python, "install", "--quiet", "--no-deps", "--ignore-installed")
    run(sys.executable, "-m", "pip", *target, *what, folder=folder)


def plugins(python: Path, folder: Path) -> str:
    """Give what ``twistd --help`` prints when it is called away from the source."""
    twistd = "import sys; from twisted.scripts.twistd import run; sys.argv[1:] = ['--help']; run()"
    return run(python, "-c", twistd, folder=folder)


@pytest.mark.timeout(120)
def test_the_wheel_has_the_plugin_and_the_types(tree, tmp_path, fresh_python):
    """A wheel that is installed shows the hub in ``twistd --help``, brings py.typed, and leaves Twisted alone."""
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        tmp_path,
        tree,
        folder=tree,
    )
    (wheel,) = tmp_path.glob("datahub-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "twisted/plugins/datahub_plugin.py" in names
    assert "datahub/py.typed" in names
    assert [name for name in names if name.startswith("twisted/")] == ["twisted/plugins/datahub_plugin.py"]
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    install(fresh_python, wheel, folder=tmp_path)
    assert "Delivers data from an archive" in plugins(fresh_python, tmp_path)
    where = run(fresh_python, "-c", "import datahub; print(datahub.__file__)", folder=tmp_path)
    assert str(fresh_python.parents[1]) in where


@pytest.mark.timeout(120)
def test_an_editable_install_has_the_plugin(tree, tmp_path, fresh_python):
    """``pip install -e`` shows the hub in ``twistd --help`` from any folder, without a flag."""
    install(fresh_python, "--editable", tree, folder=tmp_path)
    assert "Delivers data from an archive" in plugins(fresh_python, tmp_path)
    where = run(fresh_python, "-c", "import datahub; print(datahub.__file__)", folder=tmp_path)
    assert where.startswith(str(tree))
