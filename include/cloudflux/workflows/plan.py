"""Turn decisions into one frozen migration plan within its guardrails."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.domain.costs import usd
from cloudflux.domain.errors import TerminalError
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.plans import Guardrails, MigrationPlan, PlannedMove, PlanState, PlanTotals
from cloudflux.domain.tiers import Provider

_USD_PLACES = 10
"""Places that are stored and reported: one move of a small object saves millionths of a dollar."""


class DecisionSource(Protocol):
    """Where the published decisions are: the lake."""

    def latest_day(self, dataset: str) -> date | None:
        """Tell the newest published day of a dataset."""

    def read(self, dataset: str, *, days: tuple[date, date]) -> pa.Table:
        """Read the rows of an inclusive range of days."""


class PlanStore(Protocol):
    """Where plans are kept."""

    def add(self, plan: MigrationPlan, state: PlanState) -> bool:
        """Store a plan once. Tells whether it was new; the same ``plan_id`` again changes nothing."""


def plan_id_of(run_id: str) -> str:
    """Give the plan id of a DAG run: a retried task finds its plan again."""
    return "plan-" + hashlib.sha256(run_id.encode()).hexdigest()[:16]


def propose(
    lake: DecisionSource,
    plans: PlanStore,
    *,
    run_id: str,
    created_at: datetime,
    guardrails: Guardrails,
    dry_run: bool,
) -> MigrationPlan:
    """Build the plan of a run from the newest decisions and store it before anything moves.

    Raises ``TerminalError`` when nothing has been decided yet.
    """
    day = lake.latest_day("decisions")
    if day is None:
        raise TerminalError("there are no decisions yet: run score_objects first")
    decisions = lake.read("decisions", days=(day, day))
    plan = build_plan(decisions, run_id=run_id, created_at=created_at, day=day, guardrails=guardrails, dry_run=dry_run)
    if not plan.moves:
        state = PlanState.EMPTY
    elif dry_run:
        state = PlanState.PREVIEW
    else:
        state = PlanState.PROPOSED
    plans.add(plan, state)
    return plan


def build_plan(
    decisions: pa.Table,
    *,
    run_id: str,
    created_at: datetime,
    day: date,
    guardrails: Guardrails,
    dry_run: bool,
) -> MigrationPlan:
    """Choose the moves: the best savings first, each within the caps.

    ``decisions`` has the lake's DECISIONS columns. A move that would break a cap is left out and counted, and the
    next one is tried against the same cap no more: the order of savings decides, so the plan is the same whatever the
    order of the rows.
    """
    wanted = decisions.filter(
        pc.and_(
            pc.equal(decisions["action"], "move"),
            pc.greater_equal(decisions["saving_usd"], float(guardrails.min_saving_usd)),
        )
    ).sort_by([("saving_usd", "descending"), ("provider", "ascending"), ("bucket", "ascending"), ("key", "ascending")])
    within = _within_caps(wanted, guardrails)
    chosen = wanted.filter(pa.array(within)).sort_by(
        [("provider", "ascending"), ("bucket", "ascending"), ("key", "ascending")]
    )
    before = _total(decisions["current_monthly_usd"])
    change = _total(chosen["current_monthly_usd"]) - _total(chosen["chosen_monthly_usd"])
    horizon_days = int(pc.max(decisions["horizon_days"]).as_py() or 0)
    return MigrationPlan(
        plan_id=plan_id_of(run_id),
        run_id=run_id,
        created_at=created_at,
        decisions_day=day,
        horizon_days=horizon_days,
        dry_run=dry_run,
        guardrails=guardrails,
        totals=PlanTotals(
            objects=chosen.num_rows,
            bytes=int(pc.sum(chosen["size_bytes"]).as_py() or 0),
            saving_usd=usd(_total(chosen["saving_usd"]), _USD_PLACES),
            one_time_usd=usd(_total(chosen["one_time_usd"]), _USD_PLACES),
            before_usd_month=usd(before, _USD_PLACES),
            after_usd_month=usd(before - change, _USD_PLACES),
            scored_objects=decisions.num_rows,
            left_out=wanted.num_rows - chosen.num_rows,
        ),
        moves=tuple(_moves(chosen)),
    )


def _within_caps(wanted: pa.Table, guardrails: Guardrails) -> np.ndarray:
    count = np.arange(1, wanted.num_rows + 1)
    sizes = np.cumsum(wanted["size_bytes"].to_numpy())
    one_time = np.cumsum(wanted["one_time_usd"].to_numpy())
    return (
        (count <= guardrails.max_objects)
        & (sizes <= guardrails.max_bytes)
        & (one_time <= float(guardrails.max_one_time_usd))
    )


def _total(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0.0)


def _moves(chosen: pa.Table) -> Iterable[PlannedMove]:
    # One Python object for each move, not for each object: a plan is bounded by `max_objects`.
    for move_no, row in enumerate(chosen.to_pylist()):
        yield PlannedMove(
            move_no=move_no,
            ref=ObjectRef(Provider(row["provider"]), row["bucket"], row["key"], row["version_id"]),
            etag=row["etag"],
            size_bytes=row["size_bytes"],
            last_modified_at=row["last_modified_at"],
            class_since_at=row["class_since_at"],
            from_class=row["current_class"],
            to_class=row["chosen_class"],
            saving_usd=usd(row["saving_usd"], _USD_PLACES),
            one_time_usd=usd(row["one_time_usd"], _USD_PLACES),
            monthly_saving_usd=usd(row["current_monthly_usd"] - row["chosen_monthly_usd"], _USD_PLACES),
            payback_days=row["payback_days"],
            reason=row["reason"],
        )


def describe(plan: MigrationPlan) -> str:
    """Write the plan's figures as Markdown: for the approval form, the log and the demo. Keys are left out on purpose.

    Object keys are written by strangers and do not belong into a rendered page.
    """
    totals = plan.totals
    lines = [
        f"**{totals.objects:,} moves** of {totals.scored_objects:,} scored objects, {totals.bytes:,} bytes.",
        "",
        "| | USD |",
        "|---|---:|",
        f"| a month now | {totals.before_usd_month:.6f} |",
        f"| a month afterwards | {totals.after_usd_month:.6f} |",
        f"| one-time cost of the moves | {totals.one_time_usd:.6f} |",
        f"| net saving over {plan.horizon_days} days | {totals.saving_usd:.6f} |",
        "",
        "| provider | bucket | from | to | moves | bytes | net saving USD | longest payback, days |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    groups: dict[tuple[str, str, str, str], list[PlannedMove]] = {}
    for move in plan.moves:
        groups.setdefault((move.ref.provider, move.ref.bucket, move.from_class, move.to_class), []).append(move)
    for (provider, bucket, from_class, to_class), moves in sorted(groups.items()):
        size = sum(move.size_bytes for move in moves)
        saving = sum((move.saving_usd for move in moves), Decimal(0))
        payback = max(move.payback_days for move in moves)
        lines.append(
            f"| {provider} | {bucket} | {from_class} | {to_class} "
            f"| {len(moves):,} | {size:,} | {saving:.6f} | {payback:.0f} |"
        )
    if totals.left_out:
        lines += ["", f"{totals.left_out:,} more moves would pay but are left out by the caps."]
    return "\n".join(lines)


def chunks_of(plan: MigrationPlan, provider: str, chunk_moves: int) -> list[dict[str, str | int]]:
    """Cut one provider's moves into ranges of at most ``chunk_moves`` consecutive move numbers of one bucket each.

    A range has the ``bucket``, the ``first`` and the ``last`` number, both included: buckets may have connections of
    their own.
    """
    chunks: list[dict[str, str | int]] = []
    mine = (move for move in plan.moves if move.ref.provider == provider)
    for bucket, moves in groupby(mine, key=lambda move: move.ref.bucket):
        numbers = [move.move_no for move in moves]
        for first in range(numbers[0], numbers[-1] + 1, chunk_moves):
            chunks.append({"bucket": bucket, "first": first, "last": min(first + chunk_moves - 1, numbers[-1])})
    return chunks
