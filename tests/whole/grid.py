"""A hub that moves to a GridFTP server, and what it has delivered there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.gridftp import GridServer

__all__ = ["contents", "sections"]


def sections(grid: GridServer, proxy: Path) -> dict[str, dict[str, Any]]:
    """Configure a hub that moves to the server."""
    return {
        "transfers.movers": {"gsiftp": "gfal:"},
        "transfers.mover_options.gsiftp": {"proxy": str(proxy), "ca": str(grid.authority.folder)},
    }


def contents(place: Path) -> dict[str, bytes]:
    """Give all files of a tree, or the only file."""
    if place.is_file():
        return {"": place.read_bytes()}
    return {str(each.relative_to(place)): each.read_bytes() for each in place.rglob("*") if each.is_file()}
