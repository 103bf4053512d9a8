"""Measure a function in a fresh process: its most memory; and how busy the machine is meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_fresh_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call a function of a module in a new interpreter; its result and ``peak_bytes`` come back.

    Raises ``RuntimeError`` when the process ends without a result.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sending, function, arguments))
    process.start()
    sending.close()
    try:
        result: dict[str, Any] = receiving.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with status {process.exitcode} and no result") from None
    process.join()
    return result


def _call(sending: Any, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    result = function(*arguments)
    sending.send({**result, "peak_bytes": peak_bytes()})
    sending.close()
    # DuckDB's bindings complain of leaks while the interpreter is taken down: not into the benchmark's output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def peak_bytes() -> int:
    """Give the most memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # not `ru_maxrss`: Linux hands a parent's peak on to the interpreter that it starts
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def load_average() -> float:
    """Give the machine's load average of a minute: what others do takes its time from what is measured."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
