"""Memory that a long step has freed, given back to the system before the next step asks for more."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back_freed_memory() -> bool:
    """Tell the C library to return the pages that are free, and whether there were any.

    glibc keeps what threads have freed for the next thread of the same arena (malloc_trim(3)). Each chunk of logs is
    parsed in threads of its own, so that a worker which parses chunk after chunk would hold more and more: 200 MiB
    after 12 million lines. Other C libraries have no such call, and keep less: nothing is done there.
    """
    trim = _malloc_trim()
    return trim is not None and bool(trim(0))


@cache
def _malloc_trim() -> Any:
    """Find glibc's call in what the process has loaded; ``None`` where there is none (musl, macOS)."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
