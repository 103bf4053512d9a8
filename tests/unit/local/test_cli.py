from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloudflux.local.checks import checks, closing_line, passed_all, runs
from cloudflux.local.cli import build_parser, main
from cloudflux.local.display import duration


@pytest.mark.parametrize("command", ["test", "up", "down", "status", "logs"])
def test_every_command_explains_itself_when_asked(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"./cloudflux {command}" in capsys.readouterr().out


def test_nothing_heavy_is_imported_when_the_parser_is_built() -> None:
    code = (
        "import sys; from cloudflux.local.cli import build_parser; build_parser();"
        "print(sorted({'rich', 'psutil', 'airflow', 'polars', 'pyarrow', 'requests', 'pydantic'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert printed.stdout.strip() == "[]"


def test_one_sentence_and_status_1_come_when_there_is_no_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", "kafka", "--var", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("cloudflux: kafka has written no log yet")


def test_status_3_comes_when_the_stack_is_down(tmp_path: Path) -> None:
    assert main(["status", "--var", str(tmp_path)]) == 3


def test_down_is_harmless_when_the_stack_never_was_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--var", str(tmp_path / "nothing")]) == 0
    assert "was not up" in capsys.readouterr().out


def test_unknown_arguments_go_to_pytest_when_the_command_is_test() -> None:
    options, rest = build_parser().parse_known_args(["test", "--fast", "-k", "ledger"])
    assert options.fast
    assert rest == ["-k", "ledger"]


def test_unknown_arguments_are_refused_when_the_command_is_another() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["down", "--force"])


@pytest.mark.parametrize("text", ["airflow", "spark=1", "airflow=x", "airflow=0"])
def test_a_port_option_is_refused_when_it_is_malformed(text: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["up", "--port", text])


def test_all_static_checks_are_named_when_the_tests_are_run() -> None:
    assert list(checks()) == ["ruff check", "ruff format", "mypy", "import-linter"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (65, "1 min"), (3600 * 5 + 420, "5 h 7 min"), (86400 * 2, "2 d 0 h")]
)
def test_a_duration_reads_naturally_when_it_is_shown(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_tests_are_counted_over_all_runs(tmp_path: Path) -> None:
    first, second = tmp_path / "report-0.xml", tmp_path / "report-1.xml"
    first.write_text(
        '<testsuites><testsuite name="pytest" tests="12" failures="2" errors="1" skipped="4"/></testsuites>',
        encoding="utf-8",
    )
    second.write_text(
        '<testsuites><testsuite name="pytest" tests="3" failures="1" errors="0" skipped="0"/></testsuites>',
        encoding="utf-8",
    )
    assert closing_line([first, second]) == "7 passed, 4 failed, 4 skipped"


def _tests_below(folder: Path) -> Path:
    tests = folder / "tests"
    for name in ("unit/domain/test_a.py", "ml/test_b.py", "contract/test_c.py", "integration/test_d.py"):
        (tests / name).parent.mkdir(parents=True, exist_ok=True)
        (tests / name).touch()
    return tests


def test_every_folder_of_tests_is_in_one_run(tmp_path: Path) -> None:
    found = runs(_tests_below(tmp_path), fast=False, pytest_arguments=["-k", "kills"])
    folders = [[argument for argument in run if argument.startswith("tests/")] for run in found]
    assert folders == [["tests/ml", "tests/unit"], ["tests/contract", "tests/integration"]]
    assert "-n" in found[0]
    assert "-n" not in found[1]
    assert all(run[-2:] == ("-k", "kills") for run in found)


def test_only_what_needs_no_stack_runs_when_it_has_to_be_fast(tmp_path: Path) -> None:
    (run,) = runs(_tests_below(tmp_path), fast=True, pytest_arguments=[])
    assert run[0] == "tests/unit"
    assert not [argument for argument in run[1:] if argument.startswith("tests/")]


def test_a_named_test_is_run_alone(tmp_path: Path) -> None:
    named = ["tests/unit/domain/test_a.py::test_one", "-x"]
    assert runs(_tests_below(tmp_path), fast=False, pytest_arguments=named) == [tuple(named)]


@pytest.mark.parametrize(
    ("statuses", "passed"),
    [([0, 0], True), ([0, 5], True), ([5, 0], True), ([5, 5], False), ([0, 1], False), ([2, 0], False), ([], False)],
)
def test_a_run_without_tests_is_no_failure_when_another_has_some(statuses: list[int], passed: bool) -> None:
    assert passed_all(statuses) is passed
