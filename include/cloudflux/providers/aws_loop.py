"""An event loop in a thread of its own, and many coroutines at once in it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from cloudflux.domain.errors import TerminalError, TransientError

_Result = TypeVar("_Result")


class LoopThread:
    """An event loop in a thread of its own, which starts when it is first needed. Safe between threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = 0
        self._starters: list[Callable[[], None]] = []
        self._closers: list[Callable[[], Coroutine[Any, Any, None]]] = []

    def on_start(self, begin: Callable[[], None]) -> None:
        """Call this before a loop starts: what belongs to an earlier one is of no use."""
        self._starters.append(begin)

    def on_stop(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this coroutine in the loop before it ends."""
        self._closers.append(close)

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine in the loop and wait for what it gives; whoever is interrupted cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:  # also an interrupt: nobody waits for the work any more
            future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and its thread; the next ``run`` starts them again."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or self._process != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(self._close(), loop).add_done_callback(
            lambda _: loop.call_soon_threadsafe(loop.stop)
        )
        if thread is not threading.current_thread():
            thread.join(10)

    async def _close(self) -> None:
        for close in self._closers:
            await close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():  # a fork has the loop, but not its thread
                for begin in self._starters:
                    begin()
                self._loop = loop = _new_loop()
                self._thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                self._process = os.getpid()
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def for_each(
    items: Sequence[Any], function: Callable[[Any], Coroutine[Any, Any, _Result]], in_flight: int
) -> list[_Result]:
    """Apply ``function`` to every item, at most ``in_flight`` at once; results in order.

    After the first error nothing new begins; what is under way is brought to its end, and then the error is raised.
    """
    results: list[Any] = [None] * len(items)
    numbered = iter(enumerate(items))
    errors: list[TerminalError | TransientError] = []

    async def work() -> None:
        for number, item in numbered:
            try:
                results[number] = await function(item)
            except (TerminalError, TransientError) as exc:
                errors.append(exc)
            if errors:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, len(items))):
            group.create_task(work())
    if errors:
        raise errors[0]
    return results
