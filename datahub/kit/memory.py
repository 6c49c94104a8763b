"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes

__all__ = ["give_back"]

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Give back what is free; some milliseconds, so it is called in a thread, after many large blocks were freed.

    Only the GNU library has to be told (malloc_trim(3)): once it has seen large blocks freed, it keeps all of them.
    """
    if _trim is not None:
        _trim(0)
