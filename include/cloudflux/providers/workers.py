"""The threads in which one client asks: kept, as making them anew for each call takes longer than what they do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Workers:
    """At most ``in_flight`` calls at once, of all who share them; idle threads end with the last reference to them.

    Safe between threads. Whoever is one of them already and maps again does so alone: waiting for the others, who may
    wait for it, would never end.
    """

    @classmethod
    def for_looks_and_changes(cls, in_flight: int) -> tuple[Workers, Workers]:
        """Share ``in_flight`` calls out: looks, of which there are few, do not queue up behind changes."""
        looks = max(1, in_flight // 4)
        return cls(looks), cls(max(1, in_flight - looks))

    def __init__(self, in_flight: int) -> None:
        self._mine = threading.local()
        # the threads hold on to what begins them: were that this object's, neither would ever end
        self._pool = ThreadPoolExecutor(
            in_flight, thread_name_prefix="cloudflux-ask", initializer=_begin, initargs=(self._mine,)
        )

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """Apply ``function`` to every item, results in order.

        The first error is raised, and what has not begun by then does not begin; what has is waited for.
        """
        if getattr(self._mine, "begun", False):
            return [function(item) for item in items]
        futures = [self._pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:  # also an interrupt: what has not begun must not begin
            wait([future for future in futures if not future.cancel()])
            raise


def _begin(mine: threading.local) -> None:
    mine.begun = True
