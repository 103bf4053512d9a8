"""Python's garbage collector while moves are carried out: seldom, as what a step makes refers to nothing in circles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

OBJECTS_BETWEEN: Final = 200_000
"""So many more objects than were freed have to be made before the collector looks at the young ones."""


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Let the garbage collector look for circles only when memory grows by `OBJECTS_BETWEEN` objects.

    A step of moves makes some tens of thousands of objects which count their own references, and frees them at its
    end. By default the collector looks at them after every 700, and again and again at all that the process has:
    a fifth of the processor time of moving. It still runs where circles do pile up, so memory stays bounded.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], OBJECTS_BETWEEN) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
