"""`./cloudflux test`: every check, each with its result, and one exit status."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from cloudflux.local.layout import REPOSITORY

SPREAD: Final = ("tests/ml", "tests/unit")
"""Folders whose tests share nothing: they are spread over the cores, file by file. All others start servers, or a whole
stack, that need the machine for themselves."""
_MOST_WORKERS: Final = 4
"""Each imports what the tests do, and starts a PostgreSQL: 1 to 2 GB."""
_NO_TESTS: Final = 5
"""Pytest's status when it found none, as where ``-k`` matches none of a run's."""


def checks() -> dict[str, tuple[str, ...]]:
    """Give the static checks by name, with their command lines."""
    python = sys.executable
    return {
        "ruff check": (python, "-m", "ruff", "check", "--quiet", "."),
        "ruff format": (python, "-m", "ruff", "format", "--check", "--quiet", "."),
        "mypy": (python, "-m", "mypy", "include/cloudflux", "ml/cloudflux_ml"),
        "import-linter": (python, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"),
    }


def run_checks(*, fast: bool, pytest_arguments: Sequence[str]) -> int:
    """Run the static checks and then pytest; give 0 if all passed. A line that counts the tests comes last.

    Pytest's own closing line is not the last one: some libraries complain to stderr when the interpreter ends.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / folder) for folder in ("include", "ml")),
    }
    failed = []
    for name, command in checks().items():
        began = time.monotonic()
        result = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        passed = result.returncode == 0
        print(f"{'passed' if passed else 'FAILED'}  {name}  ({time.monotonic() - began:.1f} s)", flush=True)
        if not passed:
            failed.append(name)
            print(result.stdout + result.stderr, flush=True)
    reports = []
    statuses = []
    folder = REPOSITORY / "var" / "test"
    for number, arguments in enumerate(runs(REPOSITORY / "tests", fast=fast, pytest_arguments=pytest_arguments)):
        report = folder / f"report-{number}.xml"
        report.unlink(missing_ok=True)
        tests = subprocess.run(
            (sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments),
            cwd=REPOSITORY,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        statuses.append(tests.returncode)
        if report.exists():
            reports.append(report)
    if failed:
        print(f"cloudflux test: FAILED before the tests: {', '.join(failed)}", file=sys.stderr)
    if reports:
        print(f"\n{closing_line(reports)}", flush=True)  # what a library said last may end without a new line
    return 1 if failed or not passed_all(statuses) else 0


def runs(tests: Path, *, fast: bool, pytest_arguments: Sequence[str]) -> list[tuple[str, ...]]:
    """Give pytest's arguments for each of its runs: one if a folder or test is named, else first what can be spread."""
    if any(
        not argument.startswith("-") and (tests.parent / argument.split("::")[0]).exists()
        for argument in pytest_arguments
    ):
        return [tuple(pytest_arguments)]
    workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    spread = ("-n", str(workers), "--dist", "loadfile", *pytest_arguments)
    if fast:
        return [("tests/unit", *spread)]
    others = sorted({f"tests/{found.relative_to(tests).parts[0]}" for found in tests.rglob("test_*.py")} - {*SPREAD})
    return [(*SPREAD, *spread), (*others, *pytest_arguments)]


def passed_all(statuses: Sequence[int]) -> bool:
    """Tell from pytest's statuses whether tests were found and none failed."""
    return 0 in statuses and {*statuses} <= {0, _NO_TESTS}


def closing_line(reports: Sequence[Path]) -> str:
    """Count the tests of pytest's reports."""
    roots = [ElementTree.parse(report).getroot() for report in reports]  # noqa: S314  # pytest wrote them a moment ago
    suites = [suite for root in roots for suite in root.iter("testsuite")]
    tests, failures, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return f"{tests - failures - errors - skipped} passed, {failures + errors} failed, {skipped} skipped"
