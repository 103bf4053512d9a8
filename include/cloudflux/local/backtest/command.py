"""`./cloudflux backtest`: what each policy would have cost on a real access trace."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudflux.domain.prices import PriceBook
    from cloudflux_ml.backtest.run import BacktestResult, Progress


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "backtest",
        help="replay an access trace, and charge every policy for it",
        description="Replay a daily access trace day by day. Each policy decides with what it could know on that day, "
        "and is charged by the price book over the same window; so is the optimum, which knows the future.",
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        required=True,
        help="Parquet or CSV with the columns object_id, day, reads, size_bytes, created_day",
    )
    parser.add_argument(
        "--prices", metavar="NAME", default="aws-us-east-1", help="a price book's name or path (aws-us-east-1)"
    )
    parser.add_argument(
        "--policies",
        metavar="NAME",
        nargs="+",
        help="some policies only, by name, e.g. stay,autopilot,cloudflux; the optimum is always there",
    )
    parser.add_argument(
        "--eval-share", metavar="SHARE", type=float, default=0.5, help="the share of the days to evaluate on (0.5)"
    )
    parser.add_argument(
        "--latency",
        choices=("ms", "hours"),
        default="ms",
        help="how slow a class may be; hours adds those that must be restored first (ms)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures into a file")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the cumulated costs, as .png or .svg")
    parser.set_defaults(run=_backtest)


def _backtest(options: argparse.Namespace) -> int:
    from cloudflux.domain.errors import CloudFluxError

    try:
        _run(options)
    except CloudFluxError as exc:
        print(f"cloudflux: {exc}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    from cloudflux.domain.errors import SettingsError
    from cloudflux.domain.prices import Latency
    from cloudflux.local.prices.tables import wide_console
    from cloudflux.price_books import load_book
    from cloudflux_ml.backtest.report import check_plot_path, report_json, report_table, write_plot
    from cloudflux_ml.backtest.run import backtest, policy_names
    from cloudflux_ml.backtest.trace import read_trace

    # what would fail after minutes of work must fail before
    for path in (options.json, options.plot):
        _check_writable(path)
    if options.plot is not None:
        check_plot_path(options.plot)
    names = None if options.policies is None else [name for part in options.policies for name in _split(part)]
    if names == []:
        raise SettingsError(f"--policies names none: there are {', '.join(policy_names())}")
    book = load_book(options.prices)
    trace = read_trace(options.trace, options.eval_share)
    with _progress() as progress:
        result = backtest(trace, book, names, latency=Latency(options.latency), progress=progress)
    console = wide_console()
    console.print(report_table(result))
    for note in _notes(book, result):
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"{result.seconds:.1f} s, at most {result.peak_bytes / 2**20:,.0f} MiB of memory")
    if options.json is not None:
        _written(options.json, lambda path: path.write_text(json.dumps(report_json(result), indent=1) + "\n", "utf-8"))
    if options.plot is not None:
        _written(options.plot, lambda path: write_plot(result, path))


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check_writable(path: Path | None) -> None:
    from cloudflux.domain.errors import SettingsError

    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise SettingsError(f"{path} cannot be written: " + ("it is a folder" if path.is_dir() else "no such folder"))


def _written(path: Path, write: Any) -> None:
    from cloudflux.domain.errors import SettingsError

    try:
        write(path)
    except OSError as exc:
        raise SettingsError(f"{path} cannot be written ({exc.strerror})") from exc
    print(f"Written: {path}")


def _notes(book: PriceBook, result: BacktestResult) -> Iterator[str]:
    for prices in book.classes:
        autopilot = prices.autopilot
        if "autopilot" not in result.policies or autopilot is None or not autopilot.redundancies:
            continue
        if book.redundancy not in autopilot.redundancies:
            yield (
                f"{prices.storage_class} is offered for {', '.join(autopilot.redundancies)} only: at "
                f"{book.redundancy or 'the redundancy of this book'} the autopilot's figures are what it would cost"
            )


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show a bar for each policy on the terminal, on stderr: the table alone is the output."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:24}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def told(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield told
