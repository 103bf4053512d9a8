"""Compare what a finished plan expected to save with what its ledger shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.plans import MigrationPlan
from cloudflux.domain.reports import SavingsReport
from cloudflux.domain.savings import projected_savings, realised_savings


class PlanStore(Protocol):
    """Where plans are kept."""

    def get(self, plan_id: str) -> MigrationPlan:
        """Give a plan with its moves, or raise when there is no such plan."""


class Ledger(Protocol):
    """The append-only record of all moves."""

    def states(self, plan_id: str) -> Mapping[int, tuple[MigrationState, str]]:
        """Tell each move's newest state with its detail."""


class SavingsStore(Protocol):
    """Where reports are kept."""

    def record(self, report: SavingsReport) -> None:
        """Store a report; the same ``report_id`` replaces its own."""


def report_savings(
    plans: PlanStore, ledger: Ledger, savings: SavingsStore, *, plan_id: str, report_id: str, at: datetime
) -> SavingsReport:
    """Report one plan: projected is what it expected of all its moves, realised what the verified ones bring.

    Realised savings are those of the moves that the ledger calls done, at the reads that were forecast for them; what
    the bill shows comes with the bill.
    """
    plan = plans.get(plan_id)
    states = ledger.states(plan_id)
    counts = Counter(state for state, _ in states.values())
    done = [move for move in plan.moves if states.get(move.move_no, (None, ""))[0] is MigrationState.DONE]
    before = plan.totals.before_usd_month
    one_time = sum((move.one_time_usd for move in done), Decimal(0))
    projected = projected_savings(before, plan.totals.after_usd_month, plan.totals.one_time_usd)
    realised = realised_savings(before, before - sum((move.monthly_saving_usd for move in done), Decimal(0)), one_time)
    report = SavingsReport(
        report_id=report_id,
        at=at,
        day=plan.decisions_day,
        objects=plan.totals.scored_objects,
        moves_done=counts[MigrationState.DONE],
        moves_failed=counts[MigrationState.FAILED],
        before_usd_month=before,
        after_usd_month=realised.after_usd_month,
        projected_usd_month=projected.monthly_usd,
        realised_usd_month=realised.monthly_usd,
        one_time_usd=one_time,
        details={
            "plan_id": plan_id,
            "moves_skipped": counts[MigrationState.SKIPPED],
            "projected_percent": str(projected.percent),
            "projected_usd_year": str(projected.annual_usd),
            "realised_percent": str(realised.percent),
            "realised_usd_year": str(realised.annual_usd),
            "payback_months": str(realised.payback_months),
        },
    )
    savings.record(report)
    return report
