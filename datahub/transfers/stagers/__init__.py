"""Who makes a product ready to be moved: the port every kind of stager implements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from datahub.archive import Product
from datahub.transfers.model import Transfer
from datahub.transfers.movers import Remote

__all__ = ["Errand", "Found", "Promised", "Stager"]


@dataclass(frozen=True, slots=True)
class Errand:
    """What a stager is asked; ``passcode`` is what it proves itself by when it calls back."""

    job: str
    product: str
    passcode: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Found:
    """The product is ready at once."""

    product: Product


@dataclass(frozen=True, slots=True)
class Promised:
    """The stager has taken the errand and will call back; ``said`` is its answer in its own words, "" for none."""

    said: str


class Stager(Protocol):
    """Stages products; an errand may be given again as long as nobody has called back.

    Raises `PassingFault` and `FinalFault` with texts for people.
    """

    calls_back: bool
    """Whether it may promise, so that it needs a passcode."""

    async def stage(self, errand: Errand) -> Found | Promised:
        """Make the product ready, or begin to."""
        ...

    async def locate(self, transfer: Transfer) -> Product:
        """Find what was staged on this host, as it is to be moved."""
        ...

    def remote(self, transfer: Transfer) -> Remote | None:
        """What was staged, for a mover that reads it where it is; None if that is this host."""
        ...
