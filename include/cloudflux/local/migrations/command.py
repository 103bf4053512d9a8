"""`./cloudflux plans`, `plan`, `undo` and `reconcile`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cloudflux.local.migrations.findings import Findings
    from cloudflux.workflows.undo import UndoProposal

_DATABASE: Final = ("CLOUDFLUX_DATABASE_URL",)
_DAG: Final = "migrate_tiers"
_STATES: Final = (
    "planned", "submitted", "restoring", "verifying", "done", "failed", "skipped", "cancelled", "undone",
)  # fmt: skip
_DATABASE_FROM: Final = "The database is that of CLOUDFLUX_DATABASE_URL, or else the embedded stack's."
_ALL_FROM: Final = (
    "Database, estate and lake are those of CLOUDFLUX_DATABASE_URL, CLOUDFLUX_ESTATE and CLOUDFLUX_LAKE_URL, or else "
    "those of the embedded stack."
)
_LEAST_WATCH_SECONDS: Final = 2.0
_MOST_OBJECTS: Final = 10_000_000
_MOST_BYTES: Final = 2**62


def add_parsers(commands: Any) -> None:
    """Add the subcommands."""
    _add_plans(commands)
    _add_plan(commands)
    _add_undo(commands)
    _add_reconcile(commands)


def _add_plans(commands: Any) -> None:
    parser = commands.add_parser(
        "plans",
        help="list the migration plans",
        description="List the newest plans: where they stand, what they come to, who approved them.",
        epilog=_DATABASE_FROM,
    )
    parser.add_argument("-n", "--last", type=_positive, default=20, metavar="N", help="how many (20)")
    _add_common(parser)
    parser.set_defaults(run=_plans)


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser(
        "plan",
        help="show one migration plan, and how far it has come",
        description="Show a plan's guardrails, groups and history, and its progress for each provider and bucket.",
        epilog=_DATABASE_FROM + " Exit status: 2 when there is no such plan.",
    )
    parser.add_argument("plan_id", metavar="PLAN", help="the plan's id, as `plans` lists it; `latest` is the newest")
    parser.add_argument("--watch", action="store_true", help="show the progress until the plan is finished")
    parser.add_argument(
        "--moves", metavar="STATE", choices=_STATES, help=f"list moves in a state: {', '.join(_STATES)}"
    )
    parser.add_argument("-n", "--last", type=_positive, default=20, metavar="N", help="how many moves (20)")
    _add_common(parser)
    parser.set_defaults(run=_plan)


def _add_undo(commands: Any) -> None:
    parser = commands.add_parser(
        "undo",
        help="take the moves of a plan or of an object back",
        description="State what taking the moves back costs, then, once you agree, start migrate_tiers to do it.",
        epilog=_ALL_FROM + " Exit status: 2 when nothing was asked for that could be done, 1 when it was not started.",
    )
    parser.add_argument("target", metavar="PLAN_OR_URI", help="a plan's id, or s3://bucket/key, az://... or gs://...")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="state the cost, and do nothing")
    how.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--max-usd", metavar="USD", type=_usd, help="refuse when it costs more")
    _add_common(parser)
    parser.set_defaults(run=_undo)


def _add_reconcile(commands: Any) -> None:
    parser = commands.add_parser(
        "reconcile",
        help="compare the ledger with the buckets",
        description="Look at every object of the plans, and tell where the ledger and the buckets disagree.",
        epilog=_ALL_FROM + " Exit status: 0 when all agree or were repaired, 1 when not, 2 when there is no such plan.",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--plan", metavar="ID", action="append", default=[], help="a plan; may be given several times")
    which.add_argument("--all", action="store_true", help="all plans that may have moved something (the default)")
    parser.add_argument("--repair", action="store_true", help="record in the ledger what the buckets prove")
    parser.add_argument("--limit", type=_positive, default=50, metavar="N", help="list at most so many moves (50)")
    _add_common(parser)
    parser.set_defaults(run=_reconcile)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--var", metavar="DIR", type=Path, help="the embedded stack's folder (var/stack, or CLOUDFLUX_VAR)"
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write a number from 1 on")
    return int(text)


def _usd(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except ArithmeticError as exc:
        raise argparse.ArgumentTypeError(f"{text!r}: write an amount, as 12.50") from exc
    if not amount.is_finite() or amount < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: write an amount from 0 on")
    return amount


@contextmanager
def _database(options: argparse.Namespace) -> Iterator[Engine]:
    from cloudflux.local.explain.command import set_environment
    from cloudflux.stores import make_engine

    set_environment(options.var, _DATABASE)
    engine = make_engine(os.environ["CLOUDFLUX_DATABASE_URL"])
    try:
        yield engine
    finally:
        engine.dispose()


def _plans(options: argparse.Namespace) -> int:
    from cloudflux.local.migrations.tables import plan_json, plans_table
    from cloudflux.local.prices.tables import wide_console
    from cloudflux.stores.plans import Plans

    with _database(options) as engine:
        plans = Plans(engine)
        shown = [(plan, plans.history(plan.plan_id)) for plan in plans.recent(options.last)]
    if options.json:
        print(json.dumps([plan_json(plan, history) for plan, history in shown], indent=2))
    elif shown:
        wide_console().print(plans_table(shown))
    else:
        print("There are no plans yet: run migrate_tiers.")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from cloudflux.domain.migrations import MigrationState
    from cloudflux.local.migrations.tables import moves_json, moves_table, plan_json, plan_parts
    from cloudflux.local.prices.tables import wide_console
    from cloudflux.stores.plans import PlanNotFound, Plans
    from cloudflux.stores.progress import moves_in_state, progress_of

    with _database(options) as engine:
        plans = Plans(engine)
        newest = plans.latest() if options.plan_id == "latest" else None
        try:
            plan = newest or plans.get(options.plan_id)
        except PlanNotFound as exc:
            print(f"cloudflux: {exc}; ./cloudflux plans lists them", file=sys.stderr)
            return 2
        if options.watch:
            return _watch(engine, plan.plan_id, as_json=options.json)
        history = plans.history(plan.plan_id)
        progress = progress_of(engine, plan.plan_id, datetime.now(UTC))
        moves = None
        if options.moves is not None:
            moves = list(moves_in_state(engine, plan.plan_id, MigrationState(options.moves), options.last))
    if options.json:
        content = plan_json(plan, history, progress)
        print(json.dumps(content if moves is None else {**content, "moves": moves_json(moves)}, indent=2))
        return 0
    console = wide_console()
    for part in plan_parts(plan, history, progress):
        console.print(part)
    if moves is not None:
        console.print(moves_table(moves, options.moves))
    return 0


def _watch(engine: Engine, plan_id: str, *, as_json: bool) -> int:
    """Show the progress until the plan has ended: in place on a terminal, else one line (or one JSON) each time."""
    from rich.console import Group
    from rich.live import Live

    from cloudflux.domain.plans import PlanState
    from cloudflux.domain.progress import together
    from cloudflux.local.migrations.tables import plan_heading, plan_json, progress_line, progress_table
    from cloudflux.local.prices.tables import wide_console
    from cloudflux.stores.plans import Plans
    from cloudflux.stores.progress import progress_of

    console = wide_console()
    plans = Plans(engine)
    in_place = console.is_terminal and not as_json
    with Live(console=console, auto_refresh=False) if in_place else _nothing() as live:
        while True:
            began = time.monotonic()
            plan, progress = plans.get(plan_id), progress_of(engine, plan_id, datetime.now(UTC))
            if live is not None:
                live.update(Group(plan_heading(plan), progress_table(progress)), refresh=True)
            elif as_json:
                print(json.dumps(plan_json(plan, plans.history(plan_id), progress)), flush=True)
            elif progress:
                console.print(progress_line(plan, together(progress)))
            if plan.state not in (PlanState.PROPOSED, PlanState.APPROVED):
                return 0
            # the ledger of a plan of millions takes seconds to read: it is left alone for some times as long
            time.sleep(max(_LEAST_WATCH_SECONDS, 5 * (time.monotonic() - began)))


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _undo(options: argparse.Namespace) -> int:
    from cloudflux.domain.errors import CloudFluxError
    from cloudflux.domain.plans import Guardrails
    from cloudflux.local.explain.command import set_environment
    from cloudflux.local.migrations.tables import undo_json, undo_parts
    from cloudflux.local.prices.tables import wide_console
    from cloudflux.workflows.undo import UndoRefused

    try:
        set_environment(options.var)
        from cloudflux.orchestration.undoing import preview_undo

        no_limits = Guardrails(_MOST_OBJECTS, _MOST_BYTES, Decimal("Infinity"), Decimal(0))
        proposal = preview_undo(options.target, created_at=datetime.now(UTC), guardrails=no_limits)
    except UndoRefused as exc:
        return _failed(exc, 2)
    except CloudFluxError as exc:
        return _failed(exc, 1)
    conf = _undo_conf(options.target, proposal)
    if options.json:
        print(json.dumps(undo_json(proposal, conf), indent=2))
    else:
        console = wide_console()
        for part in undo_parts(proposal):
            console.print(part)
    cost = proposal.plan.totals.one_time_usd
    if options.max_usd is not None and cost > options.max_usd:
        return _failed(f"it costs USD {cost:.6f}, above --max-usd {options.max_usd}: nothing was started", 1)
    if options.dry_run:
        return 0
    if not options.yes and not _agreed(f"Take {proposal.plan.totals.objects:,} moves back for USD {cost:.6f}?"):
        return 2
    return _start(options, conf)


def _undo_conf(target: str, proposal: UndoProposal) -> dict[str, Any]:
    """Give the run's configuration: what was stated is the most that it may move and spend."""
    totals = proposal.plan.totals
    least = Decimal("0.000001")
    return {
        "undo": target,
        "dry_run": False,
        "require_approval": False,
        "max_objects": totals.objects,
        "max_bytes": max(totals.bytes, 1),
        # early deletion only becomes less from now on; the last place is rounded up
        "max_one_time_usd": float(totals.one_time_usd.quantize(least) + least),
    }


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        print("cloudflux: nothing was started: agree with --yes, or look with --dry-run", file=sys.stderr)
        return False
    answer = input(f"{question} [y/N] ").strip().lower()
    if answer not in ("y", "yes"):
        print("Nothing was started.")
        return False
    return True


def _start(options: argparse.Namespace, conf: dict[str, Any]) -> int:
    """Start the run in the embedded stack's Airflow, or say what to start where there is none."""
    from cloudflux.domain.errors import CloudFluxError
    from cloudflux.local.demo.airflow_api import AirflowApi
    from cloudflux.local.stack import DEFAULT_FOLDER, Stack
    from cloudflux.workflows.plan import plan_id_of

    named = options.var or os.environ.get("CLOUDFLUX_VAR")
    stack = Stack(Path(named) if named else DEFAULT_FOLDER)
    try:
        same = stack.environment()["CLOUDFLUX_DATABASE_URL"] == os.environ["CLOUDFLUX_DATABASE_URL"]
        if not same or "airflow" not in stack.addresses():
            return _not_started("no Airflow of ours works on this database", conf)
        api = AirflowApi(stack.addresses()["airflow"], *stack.credentials()["airflow"])
        api.log_in()
        if api.is_paused(_DAG):
            print(f"{_DAG} was paused: it is not any more", file=sys.stderr)
            api.unpause(_DAG)
        run = api.trigger(_DAG, conf)
    except CloudFluxError as exc:
        return _not_started(str(exc), conf)
    plan_id = plan_id_of(run.run_id)
    if options.json:
        print(json.dumps({"run_id": run.run_id, "plan_id": plan_id, "page": api.run_page(_DAG, run.run_id)}))
        return 0
    print(f"Started: {api.run_page(_DAG, run.run_id)}")
    print(f"The plan is {plan_id}: follow it with ./cloudflux plan {plan_id} --watch")
    return 0


def _not_started(why: str, conf: dict[str, Any]) -> int:
    print(f"cloudflux: nothing was started ({why}): trigger {_DAG} with this configuration", file=sys.stderr)
    print(json.dumps(conf))
    return 1


def _reconcile(options: argparse.Namespace) -> int:
    from cloudflux.domain.errors import CloudFluxError
    from cloudflux.local.explain.command import set_environment
    from cloudflux.local.migrations.tables import findings_json, findings_parts
    from cloudflux.local.prices.tables import wide_console
    from cloudflux.stores.plans import PlanNotFound

    try:
        set_environment(options.var)
        # Airflow's hooks write their log to standard output, which is for what was asked for
        os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
        with redirect_stdout(sys.stderr):
            from cloudflux.orchestration import reconciling

            plan_ids = list(dict.fromkeys(options.plan)) or reconciling.plans_that_may_have_moved()
            findings = _found(plan_ids, reconciling.moves_of(plan_ids), repair=options.repair, keep=options.limit)
    except PlanNotFound as exc:
        return _failed(f"{exc}; ./cloudflux plans lists them", 2)
    except CloudFluxError as exc:
        return _failed(exc, 1)
    if options.json:
        print(json.dumps(findings_json(findings), indent=2))
    else:
        console = wide_console()
        for part in findings_parts(findings, repair=options.repair):
            console.print(part)
    return 0 if findings.all_agree else 1


def _found(plan_ids: list[str], moves: int, *, repair: bool, keep: int) -> Findings:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from cloudflux.local.migrations.findings import Findings
    from cloudflux.orchestration.reconciling import reconcile

    findings = Findings(plans=len(plan_ids), keep=keep)
    console = Console(stderr=True)
    columns = (TextColumn("looking at moves"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=moves)
        for found in reconcile(plan_ids, repair=repair):
            findings.add(found)
            progress.advance(task, found.last - found.first + 1)
    return findings


def _failed(why: object, status: int) -> int:
    print(f"cloudflux: {why}", file=sys.stderr)
    return status
