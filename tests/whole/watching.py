"""twistd, with a watch on its reactor: ``python -m tests.whole.watching FILE -- TWISTD-ARGUMENT...``.

FILE gets, whenever a record is broken, the processor time in seconds of the longest callback, and what it was.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

__all__ = ["main", "watch"]

SETTLED = 2.0


def main(arguments: list[str]) -> None:
    """Watch, and run twistd."""
    from twisted.internet import reactor
    from twisted.scripts.twistd import run

    border = arguments.index("--")
    watch(reactor, Path(arguments[0]))
    sys.argv = ["twistd", *arguments[border + 1 :]]
    run()


def watch(reactor: Any, file: Path) -> None:
    """Note the longest callback of ``reactor`` by its own processor time: an event, or a call that was due."""
    longest = collecting = 0.0
    began = time.monotonic()

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal longest, collecting
            collecting = 0.0
            before = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.thread_time() - before
                # The start itself, which reads files and binds ports, comes before anybody is served.
                if took > longest and reactor.running and time.monotonic() - began > SETTLED:
                    longest = took
                    file.write_text(f"{took:.4f} {function!r} {repr(args[:1])[:200]}; collecting {collecting:.4f}\n")

        return called

    def call_later(delay: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return original(delay, timed(function), *args, **kwargs)

    def collect(phase: str, info: Any) -> None:
        nonlocal collecting
        collecting += time.thread_time() * (1 if phase == "stop" else -1)

    gc.callbacks.append(collect)
    original = reactor.callLater
    reactor.callLater = call_later
    reactor._doReadOrWrite = timed(reactor._doReadOrWrite)


if __name__ == "__main__":
    main(sys.argv[1:])
