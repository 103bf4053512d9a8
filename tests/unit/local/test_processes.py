from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cloudflux.local.processes import MARKER, PeakMemory, end_processes, memory_bytes, stack_processes

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)
PARENT = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], env={});"
    "print('ready', flush=True); child.wait()"
)

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    started: list[subprocess.Popen[str]] = []

    def marked(code: str, root: Path = tmp_path) -> subprocess.Popen[str]:
        environment = {**os.environ, MARKER: str(root)}
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield marked
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_process_is_found_when_it_carries_the_stacks_marker(tmp_path: Path, spawn: Spawn) -> None:
    process = spawn(STUBBORN)
    assert [found.pid for found in stack_processes(tmp_path)] == [process.pid]


def test_another_stacks_process_is_left_alone_when_one_stack_ends(tmp_path: Path, spawn: Spawn) -> None:
    other = spawn(STUBBORN, tmp_path / "other")
    assert end_processes(tmp_path, patience_seconds=0.2) == 0
    assert other.poll() is None


def test_children_end_too_when_they_lost_the_marker(tmp_path: Path, spawn: Spawn) -> None:
    parent = spawn(PARENT)
    (child,) = psutil.Process(parent.pid).children()
    assert end_processes(tmp_path) >= 2
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_process_is_killed_when_it_does_not_end_when_asked(tmp_path: Path, spawn: Spawn) -> None:
    stubborn = spawn(STUBBORN)
    assert end_processes(tmp_path, patience_seconds=0.2) == 1
    assert not psutil.pid_exists(stubborn.pid)


def test_memory_counts_living_processes_alone_when_some_are_gone(spawn: Spawn) -> None:
    process = psutil.Process(spawn(STUBBORN).pid)
    assert memory_bytes([process]) > 1_000_000
    process.kill()
    process.wait()
    assert memory_bytes([process]) == 0


def test_the_peak_stays_when_memory_shrinks_again() -> None:
    mine = [psutil.Process()]
    with PeakMemory(lambda: mine, every_seconds=0.01) as watch:
        pass
    assert watch.peak_bytes > 1_000_000
