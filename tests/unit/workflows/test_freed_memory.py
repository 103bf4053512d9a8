"""What a thread has freed is given back to the system, not kept for the next thread."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cloudflux.workflows import freed_memory
from cloudflux.workflows.freed_memory import give_back_freed_memory

_PIECE_BYTES = 64 << 10  # below the size from which glibc maps each piece alone, and unmaps it when it is freed
_PIECES = 1024


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(freed_memory._malloc_trim() is None, reason="the C library of this system has no malloc_trim")
def test_freed_pages_return_to_the_system_when_a_piece_above_them_is_still_held() -> None:
    held: list[np.ndarray] = []

    def work() -> None:
        pieces = [np.ones(_PIECE_BYTES, dtype=np.uint8) for _ in range(_PIECES)]
        held.append(pieces[-1])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = _resident_bytes()
    give_back_freed_memory()
    assert before - _resident_bytes() > _PIECES * _PIECE_BYTES / 2
    assert held[0].all()


def test_what_arrow_has_freed_returns_to_the_system() -> None:
    columns = [pa.array(np.ones(1 << 20, dtype=np.uint8)).cast(pa.int16()) for _ in range(64)]
    size = sum(column.nbytes for column in columns)
    held = _resident_bytes()
    del columns
    give_back_freed_memory()
    assert held - _resident_bytes() > size / 2


def test_nothing_fails_where_the_c_library_has_no_such_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory, "_malloc_trim", lambda: None)
    give_back_freed_memory()
