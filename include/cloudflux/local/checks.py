"""`./cloudflux test`: every check, each with its result, and one exit status."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from cloudflux.local.layout import REPOSITORY


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
    folders = ("tests/unit",) if fast else ("tests",)
    named = any(
        not argument.startswith("-") and (REPOSITORY / argument.split("::")[0]).exists()
        for argument in pytest_arguments
    )
    report = REPOSITORY / "var" / "test" / "report.xml"
    report.unlink(missing_ok=True)
    tests = subprocess.run(
        (sys.executable, "-m", "pytest", f"--junitxml={report}", *(() if named else folders), *pytest_arguments),
        cwd=REPOSITORY,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if failed:
        print(f"cloudflux test: FAILED before the tests: {', '.join(failed)}", file=sys.stderr)
    if report.exists():
        print(f"\n{closing_line(report)}", flush=True)  # what a library said last may end without a new line
    return 1 if failed or tests.returncode != 0 else 0


def closing_line(report: Path) -> str:
    """Count the tests of pytest's report."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))  # noqa: S314  # pytest wrote it a moment ago
    tests, failures, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return f"{tests - failures - errors - skipped} passed, {failures + errors} failed, {skipped} skipped"
