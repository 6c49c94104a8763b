"""The messages that were asked for last, kept in memory: their content never changes."""

from __future__ import annotations

from collections import OrderedDict

from datahub.messages.model import Message

__all__ = ["Memory"]

# What a message of no bytes takes: two objects, a digest, and its place in the order.
OVERHEAD = 350


class Memory:
    """As many messages as fit into ``room`` bytes; those not asked for the longest go first."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: OrderedDict[str, Message] = OrderedDict()
        self._forgotten = 0
        self.taken = 0

    @property
    def moment(self) -> int:
        """A number that changes with every `forget`: it tells a reader whether what he holds may be kept."""
        return self._forgotten

    def find(self, digest: str) -> Message | None:
        """The message, if it is here."""
        message = self._kept.get(digest)
        if message is not None:
            self._kept.move_to_end(digest)
        return message

    def keep(self, message: Message, moment: int) -> None:
        """Keep a message that is in the store, or was at ``moment``.

        It is not kept if anything was forgotten since: it might be what was deleted meanwhile.
        """
        cost = len(message.content) + OVERHEAD
        if moment != self._forgotten or cost > self._room or message.digest in self._kept:
            return
        self._kept[message.digest] = message
        self.taken += cost
        while self.taken > self._room:
            _, oldest = self._kept.popitem(last=False)
            self.taken -= len(oldest.content) + OVERHEAD

    def forget(self, digest: str) -> None:
        """Keep this message no longer."""
        self._forgotten += 1
        message = self._kept.pop(digest, None)
        if message is not None:
            self.taken -= len(message.content) + OVERHEAD
