"""Signals from hub to hub by the broker: hints for the moment, kept nowhere, lost while it is away."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from typing import Any, NoReturn

from pika import BasicProperties
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["Signals"]

log = Logger()

PAUSE = 0.05
"""Seconds: what is signalled again within this time is one message, the last. A thousand commits are twenty."""


class Signals:
    """Publishes to the topic exchange ``exchange``, and calls the listeners for what other hubs publish there."""

    def __init__(self, exchange: str, clock: IReactorTime) -> None:
        self._exchange = exchange
        self._clock = clock
        self._me = token_hex(8)
        self._listeners: dict[str, Callable[[bytes], None]] = {}
        self._channel: Any = None
        self._waiting: dict[str, bytes] = {}
        self._flush: IDelayedCall | None = None

    def hear(self, name: str, listener: Callable[[bytes], None]) -> None:
        """Call ``listener`` with the content of each signal ``name`` from another hub."""
        self._listeners[name] = listener

    def signal(self, name: str, content: bytes) -> None:
        """Tell the other hubs, in a moment."""
        if self._channel is None:
            return
        self._waiting[name] = content
        if self._flush is None:
            self._flush = self._clock.callLater(PAUSE, self._publish)

    async def attend(self, channel: Any) -> NoReturn:
        """Listen on ``channel``, which is for signals alone, until it is closed."""
        await channel.exchange_declare(exchange=self._exchange, exchange_type="topic", durable=True)
        declared = await channel.queue_declare(queue="", exclusive=True, auto_delete=True)
        own = declared.method.queue
        await channel.queue_bind(queue=own, exchange=self._exchange, routing_key="#")
        messages, _ = await channel.basic_consume(own, auto_ack=True, exclusive=True)
        self._channel = channel
        try:
            while True:
                _, method, properties, content = await messages.get()
                if properties.app_id != self._me:
                    self._heard(method.routing_key, content)
        finally:
            self.close()

    def close(self) -> None:
        """Tell nobody any more."""
        self._channel = None
        self._waiting.clear()
        flush, self._flush = self._flush, None
        if flush is not None:
            flush.cancel()

    def _heard(self, name: str, content: bytes) -> None:
        listener = self._listeners.get(name)
        if listener is None:
            return
        try:
            listener(content)
        except Exception:
            log.failure("the signal {name} of another hub can't be used", name=name)

    def _publish(self) -> None:
        self._flush = None
        waiting, self._waiting = self._waiting, {}
        for name, content in waiting.items():
            published = maybeDeferred(
                self._channel.basic_publish,
                exchange=self._exchange,
                routing_key=name,
                body=content,
                properties=BasicProperties(app_id=self._me),
            )
            published.addErrback(lambda _: None)
