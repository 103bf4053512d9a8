"""What all tests share: one embedded stack per session, whose services start when a test first needs them."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from cloudflux.local.stack import Stack

REPOSITORY = Path(__file__).resolve().parents[1]
STACKS = REPOSITORY / "var" / "test"

StackWith = Callable[..., "Stack"]


def pytest_configure(config: pytest.Config) -> None:
    """Let third parties' warnings pass that every test may meet, whichever imports the library first."""
    # kafka-python 3.0 reads its own message schemas in a way that Python 3.11 and 3.12 deprecate
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")
    # An example's time says how busy the machine is, or that code is compiled: no test is about that.
    settings.register_profile("cloudflux", deadline=None)
    settings.load_profile("cloudflux")


def pytest_sessionstart() -> None:
    """Let a socket that nobody closed tell who opened it: it is found out long after, in the midst of another test.

    Those of kafka-python pass: of an attempt to connect that fails or is given up it leaves the socket to the garbage
    collector (``kafka.net.inet``, 3.0.12).
    """
    opened: dict[int, traceback.StackSummary] = {}
    open_socket, report = socket.socket.__init__, sys.unraisablehook

    def noting(self: socket.socket, *args: Any, **kwargs: Any) -> None:
        open_socket(self, *args, **kwargs)
        frames = traceback.walk_stack(sys._getframe(1))
        opened[id(self)] = traceback.StackSummary.extract(frames, limit=30, lookup_lines=False)

    def telling(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.object, socket.socket) and isinstance(unraisable.exc_value, ResourceWarning):
            frames = opened.get(id(unraisable.object), ())
            if any(Path(frame.filename).parts[-3:] == ("kafka", "net", "inet.py") for frame in frames):
                return
            told = "".join(traceback.format_list(reversed(frames)))
            unraisable.exc_value.add_note(f"it was opened here:\n{told}")
        report(unraisable)

    socket.socket.__init__ = noting  # type: ignore[method-assign]  # for this session's tests only
    sys.unraisablehook = telling


def settings_without_services() -> dict[str, str]:
    """Give this environment without what would replace parts of a stack or move its ports."""
    foreign = ("CLOUDFLUX_", "AIRFLOW_", "KAFKA_", "MLFLOW_", "STORAGE_EMULATOR_HOST")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


@pytest.fixture(scope="session")
def stack_with() -> Iterator[StackWith]:
    """Give `stack_with("postgres", "kafka")`: the session's stack, with at least these services up, on free ports."""
    from cloudflux.local.stack import Stack

    _clear_left_over()
    stack = Stack(STACKS / f"session-{os.getpid()}", settings_without_services())

    def start(*services: str) -> Stack:
        stack.start(set(services), ports="free")
        return stack

    yield start
    stack.stop()
    shutil.rmtree(stack.layout.root, ignore_errors=True)


def _clear_left_over() -> None:
    """End the stacks of sessions that were killed."""
    import psutil

    from cloudflux.local.processes import end_processes

    for folder in STACKS.glob("session-*"):
        if not psutil.pid_exists(int(folder.name.removeprefix("session-"))):
            end_processes(folder)
            shutil.rmtree(folder, ignore_errors=True)
