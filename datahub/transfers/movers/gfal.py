"""The mover ``gfal:``: files go to GridFTP, WebDAV and XRootD servers by gfal2, in processes of their own.

They go under a temporary name of the attempt, are verified by a checksum at both ends, and get their final name last.
What was staged on another GridFTP server goes from there, without passing through here.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from datahub.archive import Archive, Product
from datahub.errors import FinalFault, PassingFault
from datahub.files import check
from datahub.kit.clock import HubClock
from datahub.kit.threads import Pool, stoppable
from datahub.transfers.movers import (
    Delivery,
    DeliveryLost,
    Filed,
    Leftover,
    Order,
    Progress,
    Remote,
    nobody,
)
from datahub.transfers.movers.addresses import check_folder, check_name, final_url, folder_url, place_of, prefix_of
from datahub.transfers.movers.carriers import Carriers, Fault, Lines
from datahub.transfers.movers.proxies import Papers

__all__ = ["COMMAND", "GfalMover"]

PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from datahub.transfers.grid.carrier import main; main()"
COMMAND = ["/usr/bin/python3", "-I", "-c", PROGRAM, str(Path(__file__).parents[3])]
"""The distribution's own Python: the bindings of gfal2 are a package of the distribution."""

_MISSING = "install the Debian packages python3-gfal2, xrootd-plugins, gfal2-plugin-file, -gridftp, -http and -xrootd"
# Nothing that a server can say of these will be another thing tomorrow, unless somebody does something about it.
_NEVER = {
    errno.EACCES: "may not be accessed with the hub's credentials",
    errno.EPERM: "may not be accessed with the hub's credentials",
    errno.ENOENT: "is not there",
    errno.EEXIST: "",
    errno.ENOTDIR: "goes through something that is no folder",
    errno.EISDIR: "is a folder",
    errno.ENAMETOOLONG: "has a name too long for that server",
    errno.EILSEQ: "",
    errno.EPROTONOSUPPORT: f"needs a plugin of gfal2 that this host lacks; {_MISSING}",
}
# What somebody here can do about it, when a server's words don't say.
_HELP = {
    errno.EBADE: "XRootD finds no way to authenticate that both sides know: with X.509 it takes a proxy, not a "
    "certificate and a key, and needs the Debian package xrootd-plugins on this host",
}
# gfal2 takes it for a refusal, though the connection broke, or what answers there just now is no such server.
_BROKEN = re.compile(r"SSL handshake failed: (?!.*(alert|certificate))")
# How GSI says that somebody is not let in; there is no number for it.
_REFUSED = re.compile(r"\b530[ -]|Login incorrect|GSS Major Status: (Authentication|Authorization)")


def _ignore(_: int) -> None:
    """The size of a rename is nothing to tell."""


class GfalMover:
    """Moves by ``carriers``, which show ``papers``."""

    fetches = True

    def __init__(self, carriers: Carriers, pool: Pool, archive: Archive, papers: Papers, clock: HubClock) -> None:
        self._carriers = carriers
        self._pool = pool
        self._archive = archive
        self._papers = papers
        self._clock = clock

    def check(self, destination: str) -> None:
        """Raise `InvalidRequest` unless ``destination`` is the URL of a folder on another host."""
        check_folder(destination)

    def claims(self, order: Order, name: str) -> str | None:
        """The final name: most servers replace what has it, and tell nobody."""
        return place_of(order.destination, name)

    async def copy(self, order: Order, product: Product, progress: Progress, filed: Filed = nobody) -> Delivery:
        """Copy under the name ``.datahub-{transfer}-{attempt}`` in the destination's folder."""
        self._require_credentials()
        check_name(product.name, order.destination)
        wanted = {
            **_names(order, product.name),
            "do": "copy",
            "name": product.name,
            "checksum": None if order.checksum is None else [order.checksum.algorithm, order.checksum.value.lower()],
        }
        if isinstance(product, Remote):
            remote = {"root": None, "url": product.url, "folder": False}
            return _delivery(order, product.name, await self._obey({**wanted, **remote}, progress, filed))
        entries = await stoppable(self._pool, partial(self._list, product))
        here = {"root": os.fsdecode(os.fsencode(product.root)), "folder": product.is_directory}
        return _delivery(order, product.name, await self._obey({**wanted, **here}, progress, filed, entries))

    async def publish(self, order: Order, delivery: Delivery) -> None:
        """Rename at the server: what is there is not replaced, unless the order says so."""
        self._require_credentials()
        await self._obey({"do": "publish", "overwrite": order.overwrite, **_facts(delivery)})

    async def is_published(self, order: Order, delivery: Delivery) -> bool:
        """Whether what was copied is at its final name, by size and checksum."""
        self._require_credentials()
        found = await self._obey({"do": "find", **_facts(delivery)})
        return bool(found["published"])

    async def discard(self, order: Order) -> None:
        """Remove ``.datahub-{transfer}-*`` from the destination's folder."""
        self._require_credentials()
        names = {
            "destination": folder_url(order.destination),
            "prefix": f"{prefix_of(order.destination)}{order.transfer}-",
        }
        await self._obey({"do": "discard", **names})

    async def leftovers(self, before: float) -> list[Leftover]:
        """None: whole servers are not looked through; what can't be discarded is so later, `transfers.tidying`."""
        return []

    async def remove(self, leftover: Leftover) -> None:
        """Nothing: there are no `leftovers`."""

    def _require_credentials(self) -> None:
        trouble = self._papers.trouble(self._clock.wall() / 1000)
        if trouble:
            raise PassingFault(trouble)

    async def _obey(
        self,
        order: Mapping[str, object],
        progress: Progress = _ignore,
        filed: Filed = nobody,
        entries: Lines | None = None,
    ) -> dict[str, Any]:
        answer = await self._carriers.obey(order, progress, filed, entries)
        if isinstance(answer, Fault):
            raise _fault_of(answer)
        return answer

    def _list(self, product: Product, stop: Event) -> Lines:
        """What is in the product: a child is told of it, for it can't open what the hub holds open.

        No other process can, once the hub has given up the rights of root: proc(5), "dumpable".
        """
        lines = Lines()
        for entry in self._archive.walk(product):
            check(stop)
            lines.add({name: getattr(entry, name) for name in entry.__slots__})
        return lines


def _names(order: Order, name: str) -> dict[str, object]:
    return {
        "destination": folder_url(order.destination),
        "temporary": f"{prefix_of(order.destination)}{order.transfer}-{order.attempt}",
        "quoted_name": final_url(order.destination, name).rpartition("/")[2],
        "overwrite": order.overwrite,
    }


def _facts(delivery: Delivery) -> dict[str, object]:
    folder, _, name = delivery.final.rpartition("/")
    return {
        "destination": folder,
        "quoted_name": name,
        "temporary": delivery.temporary,
        "size": delivery.size,
        "folder": delivery.is_directory,
        "checksums": delivery.checksums,
    }


def _delivery(order: Order, name: str, made: dict[str, Any]) -> Delivery:
    return Delivery(
        final=final_url(order.destination, name),
        temporary=f"{prefix_of(order.destination)}{order.transfer}-{order.attempt}",
        device=0,
        inode=0,
        files=made["files"],
        size=made["size"],
        checksums=made["checksums"],
    )


def _fault_of(fault: Fault) -> PassingFault | FinalFault:
    if fault.kind == "lost":
        return DeliveryLost(fault.text)
    if fault.kind == "missing":
        return PassingFault(f"{fault.text}: {_MISSING}")
    if fault.kind == "never":
        return FinalFault(fault.text)
    where = {"source": "the source ", "destination": "the destination "}.get(fault.where, "")
    if _REFUSED.search(fault.text) and "has expired" not in fault.text:
        return FinalFault(f"the server does not let the hub in: {fault.text}")
    if fault.errno in _NEVER and not _BROKEN.search(fault.text):
        reason = _NEVER[fault.errno]
        return FinalFault(f"{where}{reason}: {fault.text}" if reason else fault.text)
    text = f"{fault.text} ({_HELP[fault.errno]})" if fault.errno in _HELP else fault.text
    return PassingFault(f"{where and where.strip() + ': '}{text}")
