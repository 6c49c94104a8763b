"""Add up the reports of several pytest runs: ``total.py FOLDER SUITE…`` prints one line and fails if anything did.

A suite without a report did not come to its end and counts as one failure. The line is kept in FOLDER/total.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

__all__ = ["main", "total"]


def total(folder: Path, suites: list[str]) -> tuple[int, int, int]:
    """Give how many tests passed, failed (errors are failures) and were skipped."""
    passed = failed = skipped = 0
    for suite in suites:
        cases = _cases(folder / f"{suite}.xml")
        if cases is None:
            failed += 1
            continue
        for outcomes in cases:
            failed += bool(outcomes & {"failure", "error"})
            skipped += outcomes == {"skipped"}
            passed += not outcomes
    return passed, failed, skipped


def _cases(report: Path) -> list[set[str]] | None:
    """Give each test's outcomes, an empty set for one that passed; None when there is no whole report."""
    try:
        root = ET.parse(report).getroot()
    except (OSError, ET.ParseError):
        return None
    outcomes: dict[tuple[str, str], set[str]] = {}
    # A test that passes and fails in its teardown is two cases of one name.
    for case in root.iter("testcase"):
        name = (case.get("classname", ""), case.get("name", ""))
        found = {each.tag for each in case} & {"failure", "error", "skipped"}
        outcomes.setdefault(name, set()).update(found)
    return list(outcomes.values())


def main(arguments: list[str]) -> int:
    """Print the closing line; give 1 if a test failed, or if there was none at all."""
    folder = Path(arguments[0])
    passed, failed, skipped = total(folder, arguments[1:])
    line = f"total: {passed} passed, {failed} failed, {skipped} skipped"
    folder.joinpath("total.txt").write_text(line + "\n")
    print(line)  # noqa: T201  # what this program is for
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
