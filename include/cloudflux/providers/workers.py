"""The threads in which one client asks: kept, as making them anew for each call takes longer than what they do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Workers:
    """At most ``in_flight`` calls at once, of all who share them; idle threads end with the last reference to them.

    Safe between threads. Whoever is one of them already and maps again does so alone: waiting for the others, who may
    wait for it, would never end.
    """

    @classmethod
    def for_looks_and_changes(cls, in_flight: int) -> tuple[Workers, Workers]:
        """Share ``in_flight`` calls (2 at least) between looks and changes.

        Changes leave a quarter free, so that looks, of which there are few, do not queue up behind them, nor does a
        change that has to look wait for ever; looks may take all that changes do not need.
        """
        changes = max(1, in_flight * 3 // 4)
        together = max(in_flight, changes + 1)
        places = threading.Semaphore(together)
        return cls(together, places), cls(changes, places)

    def __init__(self, in_flight: int, places: AbstractContextManager[Any] | None = None) -> None:
        """Allow so many calls at once, each in one of the ``places``, if there are such, that others take as well."""
        self._places = nullcontext() if places is None else places
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

        def call(item: _Item) -> _Result:
            with self._places:
                return function(item)

        futures = [self._pool.submit(call, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:  # also an interrupt: what has not begun must not begin
            wait([future for future in futures if not future.cancel()])
            raise


def _begin(mine: threading.local) -> None:
    mine.begun = True
