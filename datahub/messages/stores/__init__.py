"""Where messages are kept: a map from digest to bytes that has a message once it says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from datahub.events import Actor

__all__ = ["MessageStore"]


class MessageStore(Protocol):
    """The port; `datahub.messages.stores.database` and `datahub.messages.stores.redis` implement it.

    Digests are 64 lower-case hexadecimal digits, and those of the contents. Every call raises
    `datahub.errors.Unavailable` when the store is away and `datahub.errors.NoSpace` when it is full.
    """

    def start(self) -> None:
        """Take up work; a store that is away is no reason to refuse."""

    async def put(self, contents: Mapping[str, bytes]) -> frozenset[str]:
        """Keep all of ``contents``, by digest, or nothing; gives the digests that were not there.

        What is there with another content, by a fault of the store, is replaced.
        """
        ...

    async def get(self, digest: str) -> bytes | None:
        """Give the content as it is kept, unchecked; None when there is none."""
        ...

    async def present(self, digests: Collection[str]) -> frozenset[str]:
        """Give those of ``digests`` that are kept."""
        ...

    async def delete(self, digest: str, actor: Actor) -> bool:
        """Keep the content no longer, and tell by an event that ``actor`` wanted it so; whether it was there."""
        ...

    async def stop(self) -> None:
        """Close what `start` has opened."""

    async def check(self) -> str | None:
        """Say how the store is: None when it is fine, else the reason why not."""
        ...
