"""The processes of one stack, found however they were orphaned, and the memory that they really use."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

MARKER: Final = "CLOUDFLUX_SUPERVISED"
"""Environment variable of every supervised process, and of what it starts: the stack's folder."""


def stack_processes(root: Path) -> list[psutil.Process]:
    """Find every living process of a stack: by the marker in its environment, or by its working folder.

    PostgreSQL overwrites its environment to show what it does, but always works in the cluster's folder.
    """
    found: dict[int, psutil.Process] = {}
    cluster = str(root / "postgres" / "data")
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(MARKER) == str(root) or process.cwd() == cluster:
                found[process.pid] = process
        except (psutil.Error, OSError):  # another user's, or gone meanwhile
            continue
    for process in list(found.values()):
        try:
            for child in process.children(recursive=True):
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.setdefault(child.pid, child)
        except psutil.Error:
            continue
    found.pop(os.getpid(), None)
    return list(found.values())


def end_processes(root: Path, *, patience_seconds: float = 6.0) -> int:
    """End every process of a stack: ask, wait, then kill; PostgreSQL last. Give how many there were.

    Raises nothing for processes that end by themselves meanwhile.
    """
    ended: set[int] = set()
    cluster = str(root / "postgres" / "data")
    for only_postgres in (False, True):
        for attempt in ("ask", "kill", "kill"):
            chosen = [process for process in stack_processes(root) if only_postgres or not _works_in(process, cluster)]
            if not chosen:
                break
            for process in chosen:
                ended.add(process.pid)
                _signal(process, _polite(process, cluster) if attempt == "ask" else signal.SIGKILL)
            psutil.wait_procs(chosen, timeout=patience_seconds)
    return len(ended)


def _works_in(process: psutil.Process, folder: str) -> bool:
    try:
        return bool(process.cwd() == folder)
    except (psutil.Error, OSError):
        return False


def _polite(process: psutil.Process, cluster: str) -> signal.Signals:
    # PostgreSQL waits for its clients at SIGTERM and sends them away at SIGINT
    return signal.SIGINT if _works_in(process, cluster) else signal.SIGTERM


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Add up the processes' proportional set sizes: shared pages count once; resident size without PSS."""
    return sum(_memory_of(process) for process in processes)


def _memory_of(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.rss))
    except psutil.AccessDenied:
        try:
            return int(process.memory_info().rss)
        except psutil.Error:
            return 0
    except psutil.Error:
        return 0


class PeakMemory:
    """Watch the memory of changing processes in a thread, as a context manager; `peak_bytes` is the largest sum."""

    def __init__(self, processes: Callable[[], Iterable[psutil.Process]], *, every_seconds: float = 2.0) -> None:
        self._processes = processes
        self._every_seconds = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, memory_bytes(self._processes()))
            if self._stop.wait(self._every_seconds):
                return


def wait_until(condition: Callable[[], bool], *, seconds: float, every_seconds: float = 0.2) -> bool:
    """Poll until the condition holds; tell False when the time is over before."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every_seconds)
    return True
