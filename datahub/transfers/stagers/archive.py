"""The stager ``archive:``: products lie ready in the hub's own archive."""

from __future__ import annotations

from datahub.archive import Archive, Product
from datahub.transfers.model import Transfer
from datahub.transfers.stagers import Errand, Found

__all__ = ["ArchiveStager"]


class ArchiveStager:
    """Finds products in ``archive``."""

    calls_back = False

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def stage(self, errand: Errand) -> Found:
        """Find the product and count what is in it."""
        return Found(await self._archive.locate(errand.product))

    async def locate(self, transfer: Transfer) -> Product:
        """Find the product again: it may have changed since."""
        return await self._archive.locate(transfer.product_id)

    def remote(self, transfer: Transfer) -> None:
        """The archive is here."""
