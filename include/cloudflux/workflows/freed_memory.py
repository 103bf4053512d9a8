"""Memory that a long step has freed, given back to the system before the next step asks for more."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import pyarrow as pa


def give_back_freed_memory() -> None:
    """Tell Arrow and the C library to return the pages that are free.

    Both keep what a thread has freed for the next thread (``pyarrow.MemoryPool.release_unused``, malloc_trim(3)). Each
    chunk of logs is parsed in threads of its own, so that a worker would hold more and more with every chunk, and hold
    it while DuckDB makes room for an audit: 260 MiB after 20 million lines. C libraries other than glibc have no such
    call, and keep less.
    """
    pa.default_memory_pool().release_unused()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """Find glibc's call in what the process has loaded; ``None`` where there is none (musl, macOS)."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
