"""Plans, their progress and what reconciling found, as tables and as JSON.

Keys and reasons were written by strangers: they are text, never markup, and cannot steer a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cloudflux.domain.plans import Guardrails, MigrationPlan, PlanGroup, PlanKind, PlanState
from cloudflux.domain.progress import MoveProgress, together
from cloudflux.local.display import duration
from cloudflux.local.explain.tables import printable
from cloudflux.local.migrations.findings import Findings
from cloudflux.stores.plans import PlanStateChange, StoredPlan
from cloudflux.stores.progress import MoveStanding
from cloudflux.workflows.plan import describe_above_caps, describe_hold_out, describe_pinned, job_fees_usd
from cloudflux.workflows.reconcile import Standing
from cloudflux.workflows.undo import UndoProposal

_JSON: Final = TypeAdapter(Any)
_STATE_COLOURS: Final = {
    PlanState.APPROVED: "yellow",
    PlanState.PROPOSED: "yellow",
    PlanState.FINISHED: "green",
    PlanState.HALTED: "red",
    PlanState.EXPIRED: "red",
    PlanState.REJECTED: "red",
}
_STANDING_COLOURS: Final = {
    Standing.DISAGREES: "bold red",
    Standing.UNSEEN: "red",
    Standing.BEHIND: "yellow",
    Standing.REPAIRED: "green",
}
_COLUMNS: Final = ("done", "failed", "skipped", "cancelled", "undone", "restoring", "in_flight", "planned")


def plans_table(plans: Sequence[tuple[StoredPlan, Sequence[PlanStateChange]]]) -> Table:
    """Give one line for each plan."""
    table = _table("Plans, newest first")
    for name in ("plan", "for", "made", "state", "approved by"):
        table.add_column(name)
    for name in ("moves", "bytes", "once, USD", "net saving, USD"):
        table.add_column(name, justify="right")
    for plan, history in plans:
        totals = plan.totals
        table.add_row(
            plan.plan_id,
            _purpose(plan),
            _moment(plan.created_at),
            _state(plan.state),
            Text(_approval(history)),
            f"{totals.objects:,}",
            _size(totals.bytes),
            f"{totals.one_time_usd:.6f}",
            f"{totals.saving_usd:.6f}",
        )
    return table


def plan_parts(
    plan: StoredPlan, history: Sequence[PlanStateChange], progress: Sequence[MoveProgress]
) -> Iterator[RenderableType]:
    """Give what is printed of one plan."""
    yield plan_heading(plan)
    yield _facts(plan)
    if plan.groups:
        yield groups_table(plan.groups)
    yield _history(history)
    if progress and plan.state not in (PlanState.PREVIEW, PlanState.EMPTY):
        yield progress_table(progress)


def plan_heading(plan: StoredPlan) -> Text:
    """Name a plan, and say where it stands."""
    return Text.assemble((plan.plan_id, "bold"), ": ", _purpose(plan), ", ", _state(plan.state))


def groups_table(groups: Sequence[PlanGroup]) -> Table:
    """Give the moves by bucket and pair of classes."""
    table = _table("Moves")
    for name in ("provider", "bucket", "from", "to"):
        table.add_column(name)
    for name in ("moves", "bytes", "once, USD", "net saving, USD", "longest payback"):
        table.add_column(name, justify="right")
    for group in groups:
        payback = group.longest_payback_days
        table.add_row(
            group.provider,
            Text(printable(group.bucket)),
            group.from_class,
            group.to_class,
            f"{group.objects:,}",
            _size(group.bytes),
            f"{group.one_time_usd:.6f}",
            f"{group.saving_usd:.6f}",
            "" if payback is None else f"{payback:.0f} d",
        )
    return table


def progress_table(progress: Sequence[MoveProgress]) -> Table:
    """Give the progress for each provider and bucket, and together."""
    shown = [name for name in _COLUMNS if any(getattr(part, name) for part in progress)]
    at = f" at {_moment(progress[0].at, seconds=True)}" if progress else ""
    table = _table(f"Progress{at}")
    table.add_column("provider")
    table.add_column("bucket")
    for name in (
        "moves",
        *(name.replace("_", " ") for name in shown),
        "bytes done",
        "moves/s",
        "overall",
        "left",
        "USD",
    ):
        table.add_column(name, justify="right")
    rows = [*progress, together(progress)] if len(progress) > 1 else list(progress)
    for part in rows:
        last = part is rows[-1] and len(rows) > 1
        table.add_row(
            "together" if last else part.provider,
            Text("" if last else printable(part.bucket)),
            f"{part.moves:,}",
            *(f"{getattr(part, name):,}" for name in shown),
            _size(part.bytes_done),
            _rate(part.per_second),
            _rate(part.overall_per_second),
            _left(part),
            f"{part.cost_usd:.6f}",
            style="bold" if last else "",
        )
    return table


def progress_line(plan: StoredPlan, progress: MoveProgress) -> Text:
    """Say in one line how far a plan has come."""
    counts = [f"{getattr(progress, name):,} {name.replace('_', ' ')}" for name in _COLUMNS if getattr(progress, name)]
    rate = _rate(progress.per_second)
    return Text(
        f"{_moment(progress.at, seconds=True)} {plan.plan_id} {plan.state}: {', '.join(counts)} of "
        f"{progress.moves:,} moves" + (f", {rate} moves/s" if rate else "") + f", USD {progress.cost_usd:.6f}"
    )


def moves_table(moves: Sequence[MoveStanding], state: str) -> Table:
    """List moves with where they stand and why."""
    table = _table(f"Moves that are {state}" + ("" if moves else ": none"))
    table.add_column("no", justify="right")
    for name in ("object", "from", "to", "since", "why", "request"):
        table.add_column(name, overflow="fold")
    for move in moves:
        table.add_row(
            str(move.move_no),
            Text(printable(move.ref.uri)),
            move.from_class,
            move.to_class,
            "" if move.at is None else _moment(move.at, seconds=True),
            Text(printable(move.detail)),
            Text(printable(move.request_id or "")),
        )
    return table


def undo_parts(proposal: UndoProposal) -> Iterator[RenderableType]:
    """State what taking moves back comes to."""
    plan, totals = proposal.plan, proposal.plan.totals
    more = totals.after_usd_month - totals.before_usd_month
    yield Text.assemble(
        "Takes back ", (f"{totals.objects:,} moves", "bold"), f" of {plan.undoes}, {_size(totals.bytes)}."
    )
    yield Text.assemble(
        "It costs ",
        (f"USD {totals.one_time_usd:.6f} once", "bold"),
        f"{_of_which_jobs(plan)}, and USD {more:.6f} more a month from then on.",
    )
    yield groups_table(plan.groups)
    for reason, count in proposal.left_out.items():
        yield Text(f"{count:,} moves are left as they are: {printable(reason)}")


def findings_parts(findings: Findings, *, repair: bool) -> Iterator[RenderableType]:
    """Tell what reconciling found, the loudest last: it stands above the prompt."""
    if not findings.plans:
        yield Text("There is no plan of which anything may have moved.")
        return
    used = [standing for standing in Standing if findings.total(standing)]
    if findings.counts:
        table = _table("The ledger and the buckets")
        for name in ("plan", "provider", "bucket"):
            table.add_column(name)
        for standing in used:
            table.add_column(Text(standing.value, _STANDING_COLOURS.get(standing, "")), justify="right")
        places = dict.fromkeys((plan_id, provider, bucket) for plan_id, provider, bucket, _ in findings.counts)
        for place in places:
            counts = (findings.counts[(*place, standing)] for standing in used)
            table.add_row(
                place[0], place[1], Text(printable(place[2])), *(f"{count:,}" if count else "" for count in counts)
            )
        yield table
    listed = findings.listed()
    if listed:
        yield _listed(findings)
    if findings.uploads:
        yield _uploads_table(findings)
    for plan_id, provider, bucket, moves, problem in findings.problems:
        yield Text(f"{plan_id}, {provider} bucket {printable(bucket)}, {moves:,} moves: {printable(problem)}", "red")
    yield _verdict(findings, repair=repair)


def _listed(findings: Findings) -> Table:
    listed = findings.listed()
    more = findings.worth_listing - len(listed)
    table = _table("Moves to know of" + (f" ({more:,} more: --limit)" if more > 0 else ""))
    for name in ("standing", "plan", "no", "object", "ledger", "wanted", "is now", "what"):
        table.add_column(name, overflow="fold")
    for finding in listed:
        table.add_row(
            Text(finding.standing.value, _STANDING_COLOURS.get(finding.standing, "")),
            finding.plan_id,
            str(finding.move_no),
            Text(printable(finding.ref.uri)),
            finding.state.value,
            f"{finding.from_class} → {finding.to_class}",
            finding.now_class or "",
            Text(printable("; ".join(part for part in (finding.detail, finding.leftover) if part))),
        )
    return table


def _uploads_table(findings: Findings) -> Table:
    more = len(findings.uploads) - findings.keep
    table = _table("Copies in parts that were left" + (f" ({more:,} more: --limit)" if more > 0 else ""))
    for name in ("plan", "no", "object", "to", "began", "upload", ""):
        table.add_column(name, overflow="fold")
    for left in findings.uploads[: findings.keep]:
        upload = left.upload
        table.add_row(
            left.plan_id,
            str(left.move_no),
            Text(printable(upload.ref.uri)),
            upload.storage_class,
            _moment(upload.began_at),
            Text(printable(upload.upload_id)),
            "aborted" if left.aborted else "",
        )
    return table


def _verdict(findings: Findings, *, repair: bool) -> Text:
    behind, wrong = findings.total(Standing.BEHIND), findings.total(Standing.DISAGREES)
    unseen = findings.total(Standing.UNSEEN) + findings.unseen
    parts = []
    if wrong:
        parts.append(f"{wrong:,} disagree, and nothing here can repair them: look at them")
    if behind:
        parts.append(f"the ledger is behind on {behind:,}" + ("" if repair else ": record them with --repair"))
    if unseen:
        parts.append(f"{unseen:,} could not be looked at")
    if repaired := findings.total(Standing.REPAIRED):
        parts.append(f"{repaired:,} repaired")
    if open_moves := findings.total(Standing.OPEN):
        parts.append(f"{open_moves:,} under way: their run goes on with them")
    if findings.leftovers:
        parts.append(f"{findings.leftovers:,} left something over")
    if aborted := sum(left.aborted for left in findings.uploads):
        parts.append(f"{aborted:,} copies in parts that were left are aborted")
    if left := len(findings.uploads) - aborted:
        parts.append(f"{left:,} copies in parts are left, and billed: abort them with --repair")
    head = "The ledger and the buckets agree" if findings.all_agree else "The ledger and the buckets do not agree"
    text = f"{head}: {findings.moves:,} moves of {findings.plans:,} plans" + "".join(f"; {part}" for part in parts)
    return Text(f"{text}.", "green" if findings.all_agree else "bold red")


def plan_json(
    plan: StoredPlan, history: Sequence[PlanStateChange], progress: Sequence[MoveProgress] | None = None
) -> dict[str, Any]:
    """Give a plan for programs."""
    content: dict[str, Any] = _JSON.dump_python(plan, mode="json")
    content["irreversible"] = plan.irreversible
    content["history"] = _JSON.dump_python(list(history), mode="json")
    if progress is not None:
        content["progress"] = [_progress_json(part) for part in progress]
    return content


def moves_json(moves: Sequence[MoveStanding]) -> list[dict[str, Any]]:
    """Give moves for programs."""
    return [{"uri": move.ref.uri, **_JSON.dump_python(move, mode="json")} for move in moves]


def undo_json(proposal: UndoProposal, conf: dict[str, Any]) -> dict[str, Any]:
    """Give an undo for programs, with the configuration that starts it."""
    totals = proposal.plan.totals
    return {
        "undoes": proposal.plan.undoes,
        "totals": _JSON.dump_python(totals, mode="json"),
        "more_usd_month": str(totals.after_usd_month - totals.before_usd_month),
        "groups": _JSON.dump_python(list(proposal.plan.groups), mode="json"),
        "left_out": dict(proposal.left_out),
        "conf": conf,
    }


def findings_json(findings: Findings) -> dict[str, Any]:
    """Give what reconciling found for programs."""
    return {
        "agree": findings.all_agree,
        "plans": findings.plans,
        "moves": findings.moves,
        "counts": [
            {"plan_id": plan_id, "provider": provider, "bucket": bucket, "standing": standing.value, "moves": count}
            for (plan_id, provider, bucket, standing), count in findings.counts.items()
        ],
        "leftovers": findings.leftovers,
        "uploads": [{"uri": left.upload.ref.uri, **_JSON.dump_python(left, mode="json")} for left in findings.uploads],
        "problems": [
            dict(zip(("plan_id", "provider", "bucket", "moves", "problem"), problem, strict=True))
            for problem in findings.problems
        ],
        "findings": [
            {"uri": finding.ref.uri, **_JSON.dump_python(finding, mode="json")} for finding in findings.listed()
        ],
    }


def _progress_json(part: MoveProgress) -> dict[str, Any]:
    derived = ("planned", "ended", "per_second", "overall_per_second", "seconds_left")
    content: dict[str, Any] = _JSON.dump_python(part, mode="json")
    return {**content, **{name: getattr(part, name) for name in derived}}


def _facts(plan: StoredPlan) -> Table:
    totals = plan.totals
    table = Table.grid(padding=(0, 2))
    rows = [
        ("made", f"{_moment(plan.created_at)} by {printable(plan.run_id)}, good until {_moment(plan.expires_at)}"),
        ("moves", f"{totals.objects:,} of {totals.scored_objects:,} objects, {_size(totals.bytes)}"),
        ("first", f"{totals.canaries:,} canaries"),
        *(
            [("for good", f"{plan.irreversible:,} leave smart tier: no undo takes them back")]
            if plan.irreversible
            else []
        ),
        *([("pinned", pinned)] if (pinned := describe_pinned(plan)) else []),
        ("held out", describe_hold_out(plan) or f"{totals.held_out:,}"),
        ("left out", " ".join([f"{totals.left_out:,}.", *describe_above_caps(plan)]).removesuffix(".")),
        ("once", f"USD {totals.one_time_usd:.6f}{_of_which_jobs(plan)}"),
        ("a month", f"USD {totals.before_usd_month:.6f} before, {totals.after_usd_month:.6f} afterwards"),
        ("net saving", f"USD {totals.saving_usd:.6f} over {plan.horizon_days} days"),
        ("guardrails", _guardrails(plan.guardrails)),
    ]
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _of_which_jobs(plan: MigrationPlan) -> str:
    fees = job_fees_usd(plan)
    return f" (of which {fees:.6f} for jobs of S3 Batch Operations)" if fees else ""


def _guardrails(guardrails: Guardrails) -> str:
    said = [
        f"at most {guardrails.max_objects:,} moves, {_size(guardrails.max_bytes)}, USD {guardrails.max_one_time_usd}",
        f"at least USD {guardrails.min_saving_usd} a move, {guardrails.min_plan_saving_usd} in all",
    ]
    for name in ("allowed_prefixes", "excluded_prefixes", "allowed_tags", "excluded_tags"):
        if texts := getattr(guardrails, name):
            said.append(f"{name.replace('_', ' ')} {', '.join(map(printable, texts))}")
    if guardrails.quiet_hours is not None:
        said.append(f"quiet {guardrails.quiet_hours}")
    said.append(f"canaries {guardrails.canary_share:.1%}, hold-out {guardrails.hold_out_share:.1%}")
    return "; ".join(said)


def _history(history: Sequence[PlanStateChange]) -> Table:
    table = _table("History")
    for name in ("state", "at", "by", "note"):
        table.add_column(name, overflow="fold")
    for change in history:
        table.add_row(
            _state(change.state),
            _moment(change.at, seconds=True),
            Text(printable(change.by)),
            Text(printable(change.note)),
        )
    return table


def _table(title: str) -> Table:
    return Table(title=f"\n{title}", title_justify="left", box=None, header_style="bold", pad_edge=False)


def _purpose(plan: StoredPlan) -> str:
    if plan.kind is PlanKind.UNDO:
        return f"undo of {plan.undoes}"
    return "preview" if plan.dry_run else "placement"


def _state(state: PlanState) -> Text:
    return Text(state.value, _STATE_COLOURS.get(state, "dim"))


def _approval(history: Sequence[PlanStateChange]) -> str:
    approved = next((change for change in history if change.state is PlanState.APPROVED), None)
    return "" if approved is None else f"{printable(approved.by)}, {_moment(approved.at)}"


def _moment(at: datetime, *, seconds: bool = False) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if seconds else f"{at:%Y-%m-%d %H:%M}"


def _rate(per_second: float | None) -> str:
    return "" if per_second is None else f"{per_second:,.1f}"


def _left(part: MoveProgress) -> str:
    if part.ended == part.moves:
        return "-"
    if part.seconds_left is None:
        return "?"
    waiting = f" + {part.restoring:,} restores" if part.restoring else ""
    return f"{duration(part.seconds_left)}{waiting}"


def _size(size_bytes: int) -> str:
    size, units = float(size_bytes), ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    for unit in units[:-1]:
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} {units[-1]}"
