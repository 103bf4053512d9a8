"""A migration plan: one frozen value that the preview, the approval form and the execution all read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from cloudflux.domain.objects import ObjectRef


class PlanState(StrEnum):
    """Where a plan stands."""

    PREVIEW = "preview"  # a dry run: never moves anything
    PROPOSED = "proposed"  # waits for approval
    APPROVED = "approved"
    REJECTED = "rejected"
    EMPTY = "empty"  # nothing to move
    FINISHED = "finished"


NEXT_PLAN_STATES: Final = MappingProxyType(
    {
        PlanState.PREVIEW: frozenset[PlanState](),
        PlanState.PROPOSED: frozenset({PlanState.APPROVED, PlanState.REJECTED}),
        PlanState.APPROVED: frozenset({PlanState.FINISHED}),
        PlanState.REJECTED: frozenset[PlanState](),
        PlanState.EMPTY: frozenset[PlanState](),
        PlanState.FINISHED: frozenset[PlanState](),
    }
)
"""The states that may follow each state: a preview never becomes an approved plan."""


@dataclass(frozen=True, slots=True)
class Guardrails:
    """Caps on one plan. A move beyond a cap is left out and counted; the dearest-to-keep moves come first."""

    max_objects: int
    max_bytes: int
    max_one_time_usd: Decimal
    min_saving_usd: Decimal
    """Least expected net saving of one move over the horizon."""


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """One object's proposed move, bound to the object as the inventory saw it."""

    move_no: int
    ref: ObjectRef
    etag: str
    size_bytes: int
    last_modified_at: datetime
    class_since_at: datetime
    from_class: str
    to_class: str
    saving_usd: Decimal
    """Expected net saving over the horizon: the one-time cost is already taken off."""
    one_time_usd: Decimal
    monthly_saving_usd: Decimal
    payback_days: float
    reason: str


@dataclass(frozen=True, slots=True)
class PlanTotals:
    """What a plan amounts to."""

    objects: int
    bytes: int
    saving_usd: Decimal
    one_time_usd: Decimal
    before_usd_month: Decimal
    """Expected running cost of a 30-day month of all scored objects where they are now."""
    after_usd_month: Decimal
    """The same once the plan is carried out."""
    scored_objects: int
    left_out: int
    """Profitable moves that a guardrail left out."""


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """The moves that a run proposes, with what they cost and save, and the caps they passed."""

    plan_id: str
    """Stable for one DAG run: a retried task finds its plan again."""
    run_id: str
    created_at: datetime
    decisions_day: date
    horizon_days: int
    dry_run: bool
    guardrails: Guardrails
    totals: PlanTotals
    moves: tuple[PlannedMove, ...]
