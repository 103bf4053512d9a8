"""Compare what a finished plan expected to save with what its ledger shows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final, Protocol

from cloudflux.domain.ledger import StateTotals
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.plans import MigrationPlan
from cloudflux.domain.reports import SavingsReport
from cloudflux.domain.savings import projected_savings, realised_savings

_NOTHING: Final = StateTotals(0, 0, Decimal(0), Decimal(0), Decimal(0))


class PlanStore(Protocol):
    """Where plans are kept."""

    def get(self, plan_id: str) -> MigrationPlan:
        """Give a plan with its moves, or raise when there is no such plan."""


class Ledger(Protocol):
    """The append-only record of all moves."""

    def totals(self, plan_id: str) -> Mapping[MigrationState, StateTotals]:
        """Add up a plan's moves by their newest state."""


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
    totals = ledger.totals(plan_id)
    done = totals.get(MigrationState.DONE, _NOTHING)
    before = plan.totals.before_usd_month
    one_time = done.one_time_usd
    projected = projected_savings(before, plan.totals.after_usd_month, plan.totals.one_time_usd)
    realised = realised_savings(before, before - done.monthly_saving_usd, one_time)
    report = SavingsReport(
        report_id=report_id,
        at=at,
        day=plan.decisions_day,
        objects=plan.totals.scored_objects,
        moves_done=done.moves,
        moves_failed=totals.get(MigrationState.FAILED, _NOTHING).moves,
        before_usd_month=before,
        after_usd_month=realised.after_usd_month,
        projected_usd_month=projected.monthly_usd,
        realised_usd_month=realised.monthly_usd,
        one_time_usd=one_time,
        details={
            "plan_id": plan_id,
            "moves_skipped": totals.get(MigrationState.SKIPPED, _NOTHING).moves,
            "projected_percent": str(projected.percent),
            "projected_usd_year": str(projected.annual_usd),
            "realised_percent": str(realised.percent),
            "realised_usd_year": str(realised.annual_usd),
            "payback_months": str(realised.payback_months),
        },
    )
    savings.record(report)
    return report
