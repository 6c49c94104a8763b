"""The carrier: it obeys until there are no more orders, and dies with the hub. Standard library and gfal2 only."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from datahub.transfers.grid.copying import Copy, Order, names, refuse_existing
from datahub.transfers.grid.digests import manifest
from datahub.transfers.grid.server import HAS_GFAL2, FaultError, Grid, Line

__all__ = ["main"]

DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG

HASTE = {"XRD_CONNECTIONWINDOW": "20", "XRD_CONNECTIONRETRY": "1", "XRD_STREAMERRORWINDOW": "0"}
"""By itself XRootD's client waits ten minutes for a server that is away: it is the hub that tries again."""


def publish(grid: Grid, order: Order) -> Order:
    """Give what was copied its final name, or find that it has it."""
    final, temporary = names(order)
    if grid.look(temporary) is not None:
        refuse_existing(grid, order, order["folder"])
        try:
            grid.rename(temporary, final, folder=order["folder"], replace=order["overwrite"] and not order["folder"])
        except FaultError as fault:
            # It may have been done though the answer was lost; what asks again is told that nothing is there.
            if fault.kind == "never" or not _is_published(grid, order):
                raise
    elif not _is_ours(grid, order):
        raise FaultError(f"the copy for {final} has gone: it is made again", "destination", kind="lost")
    return {}


def find(grid: Grid, order: Order) -> Order:
    """Say whether what was copied has its final name."""
    return {"published": _is_published(grid, order)}


def _is_published(grid: Grid, order: Order) -> bool:
    _, temporary = names(order)
    return grid.look(temporary) is None and _is_ours(grid, order)


def _is_ours(grid: Grid, order: Order) -> bool:
    """Whether all that was copied is under the final name: there is nothing else by which it could be known."""
    final, _ = names(order)
    found, known = grid.look(final), order["checksums"]
    if found is None or stat.S_ISDIR(found.st_mode) != order["folder"]:
        return False
    if not order["folder"]:
        return bool(
            found.st_size == order["size"] and grid.checksum(final, "adler32", order["size"]) == known["adler32"]
        )
    files = ((path, status.st_size) for path, status in grid.walk(final) if not stat.S_ISDIR(status.st_mode))
    sums = {path: grid.checksum(f"{final}/{quote(path)}", "adler32", size) for path, size in files}
    return bool(manifest(sums) == known["manifest-adler32"])


def discard(grid: Grid, order: Order) -> Order:
    """Remove all that has a name with the transfer's prefix."""
    folder = order["destination"]
    found = grid.look(folder)
    # Other people's names may be anything; ours are ASCII.
    there = grid.names(folder, readable=True) if found is not None and stat.S_ISDIR(found.st_mode) else []
    for name in (each for each, _ in there if each.startswith(order["prefix"])):
        grid.remove(f"{folder}/{quote(name)}")
    return {}


VERBS = {"copy": lambda grid, order: Copy(grid, order).run(), "publish": publish, "find": find, "discard": discard}


def obey(grid: Grid | None, line: Line, order: Order) -> None:
    """Carry out one order and answer it."""
    try:
        if grid is None:
            raise FaultError("this host's Python has no gfal2", "here", kind="missing")
        grid.fetch_tokens(wanted=False)
        line.say(done=VERBS[order["do"]](grid, order))
    except FaultError as fault:
        line.say(fault={"text": str(fault), "where": fault.where, "errno": fault.number, "kind": fault.kind})
    except OSError as error:
        text = f"{error.filename or 'the product'}: {error.strerror or error}"
        line.say(fault={"text": text, "where": "source", "errno": error.errno or 0, "kind": ""})


def take_token() -> None:
    """Give gfal2 the token of a file, as the WLCG's Bearer Token Discovery wants: gfal2 itself looks for no file."""
    path = os.environ.get("BEARER_TOKEN_FILE")
    if not path or os.environ.get("BEARER_TOKEN"):
        return
    try:
        os.environ["BEARER_TOKEN"] = Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"no token is shown to servers: {path} can't be read: {error}\n")


def die_with(parent: int) -> None:
    """Be killed when the process ``parent`` ends, which began this one; if it has ended already, end."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the hub has ended")


def next_order(lines: Iterator[str]) -> Order | None:
    """Read an order with its ``entries``, of which it says how many lines they are; None when there are no more."""
    line = next(lines, None)
    if line is None:
        return None
    order: Order = json.loads(line)
    entries = [json.loads(each) for each in islice(lines, order.get("entries", 0))]
    # Of a list that was cut off nothing is copied.
    return {**order, "entries": entries} if len(entries) == order.get("entries", 0) else None


def main() -> None:
    """Obey until there are no more orders; die with the hub, whose process id is the only argument."""
    die_with(int(sys.argv[1]))
    os.setsid()
    # What libraries print goes to the hub's log.
    line = Line(os.dup(1))
    os.dup2(2, 1)
    for name, value in HASTE.items():
        os.environ.setdefault(name, value)
    take_token()
    grid = Grid(line) if HAS_GFAL2 else None
    while (order := next_order(sys.stdin)) is not None:
        obey(grid, line, order)
