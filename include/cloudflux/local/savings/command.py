"""`./cloudflux savings`: projected and realised savings, as `report_savings` measured them last."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudflux.local.explain.command import PlotRefused, check_plot_path

if TYPE_CHECKING:
    from cloudflux.domain.reports import SavingsReport


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "savings",
        help="show what plans saved",
        description="Show what each plan expected to save, what its moves have saved since by the objects' own "
        "accesses, and what the objects that were held out say; and all plans together.",
        epilog="The figures are those of the newest run of report_savings, in the database of CLOUDFLUX_DATABASE_URL "
        "or else of the embedded stack. docs/savings.md says what they mean. Exit status: 2 when there is no such plan "
        "or nothing was reported yet, 1 when the database is away.",
    )
    parser.add_argument("--plan", metavar="ID", help="one plan, with all its figures; else all plans")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the savings over the days, as .png or .svg")
    parser.add_argument(
        "--var", metavar="DIR", type=Path, help="the embedded stack's folder (var/stack, or CLOUDFLUX_VAR)"
    )
    parser.set_defaults(run=_savings)


def _savings(options: argparse.Namespace) -> int:
    try:
        check_plot_path(options.plot)
        together, reports = _reports(options)
        if not reports:
            what = "no savings were reported yet" if options.plan is None else f"no report of {options.plan!r} is there"
            print(f"cloudflux: {what}: report_savings runs once a plan has been carried out", file=sys.stderr)
            return 2
        _print(together, reports, as_json=options.json, one=options.plan is not None)
        if options.plot is not None:
            _draw(reports, options.plot)
    except PlotRefused as exc:
        print(f"cloudflux: {exc}", file=sys.stderr)
        return 2
    return 0


def _reports(options: argparse.Namespace) -> tuple[SavingsReport | None, list[SavingsReport]]:
    """Give the newest report of all plans together, and the newest one of each wanted plan."""
    from cloudflux.stores.engine import make_engine
    from cloudflux.stores.savings import Savings

    engine = make_engine(_database_url(options.var))
    try:
        savings = Savings(engine)
        if options.plan is None:
            return savings.latest(), savings.latest_of_plans()
        found = savings.latest(options.plan)
        return None, [] if found is None else [found]
    finally:
        engine.dispose()


def _database_url(folder: Path | None) -> str:
    """Give the environment's database, or the embedded stack's. Raises ``StackError`` where there is none."""
    named = os.environ.get("CLOUDFLUX_DATABASE_URL")
    if named and folder is None:
        return named
    from cloudflux.local.stack import DEFAULT_FOLDER, Stack

    var = folder or os.environ.get("CLOUDFLUX_VAR")
    return Stack(Path(var) if var else DEFAULT_FOLDER).environment()["CLOUDFLUX_DATABASE_URL"]


def _print(together: SavingsReport | None, reports: list[SavingsReport], *, as_json: bool, one: bool) -> None:
    if as_json:
        from pydantic import TypeAdapter

        from cloudflux.domain.reports import SavingsReport as Report

        adapter = TypeAdapter(Report)
        plans = [adapter.dump_python(report, mode="json") for report in reports]
        every = None if together is None else adapter.dump_python(together, mode="json")
        print(json.dumps(plans[0] if one else {"all": every, "plans": plans}, indent=2))
        return
    from rich.text import Text

    from cloudflux.local.autopilots.command import reported_proposals
    from cloudflux.local.explain.tables import printable
    from cloudflux.local.prices.tables import wide_console
    from cloudflux.local.savings.tables import plan_parts, savings_table, without_hold_out

    console = wide_console()
    if not one:
        console.print(savings_table(reports, together))
        if note := without_hold_out(reports):
            console.print(note)
        for line in () if together is None else reported_proposals(together.details):
            console.print(Text(printable(f"Proposed: {line}")))
        return
    for part in plan_parts(reports[0]):
        console.print(part)


def _draw(reports: list[SavingsReport], path: Path) -> None:
    from cloudflux.local.savings.plot import write_plot

    try:
        drawn = write_plot(reports, path)
    except OSError as exc:
        raise PlotRefused(f"{path} cannot be written ({exc.strerror})") from exc
    if not drawn:
        raise PlotRefused("no plot: no whole day has passed since the moves")
    print(f"Written: {path}", file=sys.stderr)
