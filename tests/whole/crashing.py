"""twistd, with functions of the product that kill the process at a chosen call, or take their time.

``python -m tests.whole.crashing POINT... -- TWISTD-ARGUMENT...``; a POINT is one of

    datahub.transfers.movers.local:LocalMover.publish:after:1      SIGKILL after the first call has returned
    datahub.transfers.movers.local:LocalMover.publish:before:2     SIGKILL in place of the second call
    datahub.transfers.pipeline:Pipeline._count:pause:0.2           every call sleeps 0.2 s first
    datahub.transfers.movers.fts_wire:ANSWER:set:2                 a constant is another number

So the product itself has no fault points.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["install", "main"]


def main(arguments: list[str]) -> None:
    """Install the points before the first ``--`` and run twistd with what follows."""
    border = arguments.index("--")
    for point in arguments[:border]:
        install(point)
    from twisted.scripts.twistd import run

    sys.argv = ["twistd", *arguments[border + 1 :]]
    run()


def install(point: str) -> None:
    """Wrap the function that ``point`` names."""
    module, path, kind, value = point.split(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    if kind == "set":
        setattr(owner, name, int(value))
        return
    function = getattr(owner, name)
    setattr(owner, name, _paused(function, float(value)) if kind == "pause" else _fatal(function, kind, int(value)))


def _paused(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    @functools.wraps(function)
    def paused(*args: Any, **kwargs: Any) -> Any:
        # For who waits until it has come so far; to the descriptor, as twistd takes `sys.stdout` for its log.
        os.write(1, f"pausing in {function.__name__}\n".encode())
        time.sleep(seconds)
        return function(*args, **kwargs)

    return paused


def _fatal(function: Callable[..., Any], kind: str, number: int) -> Callable[..., Any]:
    calls = itertools.count(1)

    def step(when: str, call: int) -> None:
        if (when, call) == (kind, number):
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(function)
    def fatal(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        step("before", call)
        result = function(*args, **kwargs)
        step("after", call)
        return result

    @functools.wraps(function)
    async def fatal_later(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        step("before", call)
        result = await function(*args, **kwargs)
        step("after", call)
        return result

    return fatal_later if inspect.iscoroutinefunction(function) else fatal


if __name__ == "__main__":
    main(sys.argv[1:])
