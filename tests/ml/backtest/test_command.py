"""`./cloudflux backtest`: JSON, table and plot, and one line for what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import polars as pl
import pytest
from backtest_traces import FIRST_DAY, random_trace

from cloudflux.domain.accounting import PARTS
from cloudflux.local.cli import main
from cloudflux_ml.backtest.run import policy_names


@pytest.fixture(scope="module")
def trace_file(tmp_path_factory):
    trace = random_trace(8, objects=12, days=120, eval_from=60)
    rows = [
        (
            f"object-{row}",
            FIRST_DAY + timedelta(days=day),
            int(count),
            int(trace.size_bytes[row]),
            int(trace.created[row]),
        )
        for day in range(trace.days)
        for row, count in zip(*trace.on(day), strict=True)
    ]
    path = tmp_path_factory.mktemp("traces") / "shop.parquet"
    frame = pl.DataFrame(rows, schema=["object_id", "day", "reads", "size_bytes", "created"], orient="row")
    frame.select(
        "object_id",
        "day",
        "reads",
        "size_bytes",
        (FIRST_DAY + pl.duration(days="created")).cast(pl.Date).alias("created_day"),
    ).write_parquet(path)
    return path


def test_all_policies_as_json_table_and_plot(trace_file, tmp_path, capsys):
    files = tmp_path / "out.json", tmp_path / "out.png"
    assert main(["backtest", "--trace", str(trace_file), "--json", str(files[0]), "--plot", str(files[1])]) == 0
    found = json.loads(files[0].read_text())
    assert list(found) == ["policies", "objects", "days", "eval_from", "seconds", "peak_bytes"]
    assert list(found["policies"]) == list(policy_names())
    assert {"stay", "lifecycle-age", "lifecycle-idle", "lifecycle-idle-promote", "autopilot", "break-even", "rules",
            "naive-forest", "optimum"} <= set(found["policies"])  # fmt: skip
    for name, policy in found["policies"].items():
        assert list(policy) == ["usd", "regret", "moves", "parts"]
        assert list(policy["parts"]) == list(PARTS)
        assert policy["usd"] == pytest.approx(sum(policy["parts"].values()))
        assert policy["regret"] == pytest.approx(policy["usd"] / found["policies"]["optimum"]["usd"])
        assert policy["regret"] >= 1 - 1e-9, name
        assert isinstance(policy["moves"], int)
    assert found["policies"]["stay"]["moves"] == 0
    assert found["seconds"] > 0
    assert found["peak_bytes"] > 2**20
    assert files[1].read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(name in printed for name in found["policies"])
    assert f"Written: {files[1]}" in printed.replace("\n", "")


def test_some_policies_by_another_book_and_a_plot_as_svg(trace_file, tmp_path, capsys):
    files = tmp_path / "out.json", tmp_path / "out.svg"
    options = ["--prices", "azure-eastus-lrs", "--latency", "hours", "--eval-share", "0.25"]
    options += ["--policies", "autopilot,stay", "break-even", "--json", str(files[0]), "--plot", str(files[1])]
    assert main(["backtest", "--trace", str(trace_file), *options]) == 0
    found = json.loads(files[0].read_text())
    assert list(found["policies"]) == ["stay", "autopilot", "break-even", "optimum"]
    assert found["eval_from"] == round(found["days"] * 0.75)
    assert "<svg" in files[1].read_text()
    assert "Smart is offered for ZRS, GZRS, RA-GZRS only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--trace", "none.parquet"], "there is no trace file none.parquet"),
        (["--prices", "aws-atlantis-1"], "there is no price book 'aws-atlantis-1'"),
        (["--policies", "stay,best"], "there is no policy 'best': there are stay, "),
        (["--policies", ","], "--policies names none: there are stay, "),
        (["--eval-share", "1.5"], "the evaluation share must lie between 0 and 1, it is 1.5"),
        (["--eval-share", "0.001"], "an evaluation share of 0.001 leaves no day to evaluate"),
        (["--plot", "plot.gif"], "a plot is a file that ends in .png or .svg, not 'plot.gif'"),
        (["--plot", "nowhere/plot.png"], "nowhere/plot.png cannot be written: no such folder"),
        (["--json", "."], ". cannot be written: it is a folder"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(trace_file, arguments, text, capsys):
    assert main(["backtest", "--trace", str(trace_file), *arguments]) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.count("\n") == 1
    assert caught.err.startswith("cloudflux: ")
    assert text in caught.err


def test_a_bad_row_is_named_on_the_command_line(trace_file, tmp_path, capsys):
    path = tmp_path / "bad.csv"
    pl.read_parquet(trace_file).with_columns(-pl.col("reads")).write_csv(path)
    assert main(["backtest", "--trace", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"{path}: object 'object-" in error
    assert "has negative reads, on " in error


def test_usage_errors_have_status_2_too(capsys):
    for arguments in ([], ["--trace", "x", "--latency", "days"]):
        with pytest.raises(SystemExit) as caught:
            main(["backtest", *arguments])
        assert caught.value.code == 2
    assert "usage: ./cloudflux backtest" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    heavy = "numpy", "polars", "sklearn", "matplotlib", "rich", "pydantic"
    code = (
        "import sys; from cloudflux.local.cli import build_parser; build_parser(); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "[]", done.stderr
