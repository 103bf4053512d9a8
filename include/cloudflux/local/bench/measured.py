"""Measure a function in a fresh process: seconds by its own clock, and the most memory that it held."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
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
    unit = 1 if sys.platform == "darwin" else 1024
    sending.send({**result, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit})
    sending.close()
    # DuckDB's bindings complain of leaks while the interpreter is taken down: not into the benchmark's output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
