"""Report what finished plans expected to save beside what their moves have saved since, and what the hold-out says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final, Protocol

from pydantic import TypeAdapter

from cloudflux.domain.bucket_autopilots import AutopilotProposal
from cloudflux.domain.ledger import StateTotals
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.plans import MigrationPlan
from cloudflux.domain.reports import PlanSavings, SavingsReport, savings_of_all
from cloudflux.domain.savings import projected_savings, realised_savings
from cloudflux.workflows.bucket_autopilots import as_json as autopilots_as_json

_NOTHING: Final = StateTotals(0, 0, Decimal(0), Decimal(0), Decimal(0))


class PlanStore(Protocol):
    """Where plans are kept."""

    def get(self, plan_id: str) -> MigrationPlan:
        """Give a plan, or raise when there is no such plan."""


class Ledger(Protocol):
    """The append-only record of all moves."""

    def totals(self, plan_id: str) -> Mapping[MigrationState, StateTotals]:
        """Add up a plan's moves by their newest state."""


class SavingsStore(Protocol):
    """Where reports are kept."""

    def record(self, report: SavingsReport) -> None:
        """Store a report; the same ``report_id`` replaces its own."""

    def latest_of_plans(self) -> Sequence[SavingsReport]:
        """Give each plan's newest report."""


def report_savings(
    plans: PlanStore,
    ledger: Ledger,
    savings: SavingsStore,
    measured: Iterable[PlanSavings],
    *,
    report_id: str,
    at: datetime,
    autopilots: Sequence[AutopilotProposal] = (),
) -> list[SavingsReport]:
    """Report each measured plan, and then all plans together: those too whose time of measuring is over.

    Projected is what a plan expected of all its moves. Realised is what was measured; it is None, and not what was
    expected, while no day since the moves is measured. Gives the plans' reports in their order, and that of all last,
    which also tells of the ``autopilots`` that were weighed last.
    """
    made = []
    for found in measured:
        if found.plan_id is None:
            raise ValueError("only single plans are measured")
        report = _plan_report(
            plans.get(found.plan_id), ledger.totals(found.plan_id), found, f"{report_id}-{found.plan_id}", at
        )
        savings.record(report)
        made.append(report)
    every_plan = savings.latest_of_plans()
    if every_plan:
        together = report_of_all(every_plan, report_id=report_id, at=at, autopilots=autopilots)
        savings.record(together)
        made.append(together)
    return made


def _plan_report(
    plan: MigrationPlan,
    totals: Mapping[MigrationState, StateTotals],
    found: PlanSavings,
    report_id: str,
    at: datetime,
) -> SavingsReport:
    done = totals.get(MigrationState.DONE, _NOTHING)
    before = plan.totals.before_usd_month
    projected = projected_savings(before, plan.totals.after_usd_month, plan.totals.one_time_usd)
    month = found.realised.month_usd
    realised = None if month is None else realised_savings(before, before - month, found.one_time_usd)
    return SavingsReport(
        report_id=report_id,
        at=at,
        day=plan.decisions_day,
        objects=plan.totals.scored_objects,
        moves_done=done.moves,
        moves_failed=totals.get(MigrationState.FAILED, _NOTHING).moves,
        before_usd_month=before,
        after_usd_month=before - done.monthly_saving_usd,
        projected_usd_month=projected.monthly_usd,
        realised_usd_month=month,
        one_time_usd=found.one_time_usd,
        plan_id=plan.plan_id,
        details={
            "plan_id": plan.plan_id,
            "moves_skipped": totals.get(MigrationState.SKIPPED, _NOTHING).moves,
            "carried_out_usd_month": str(done.monthly_saving_usd),
            "projected_percent": str(projected.percent),
            "projected_usd_year": str(projected.annual_usd),
            "realised_percent": None if realised is None else str(realised.percent),
            "realised_usd_year": None if realised is None else str(realised.annual_usd),
            "payback_months": None if realised is None else str(realised.payback_months),
            "measured": as_json(found),
        },
    )


def report_of_all(
    reports: Sequence[SavingsReport],
    *,
    report_id: str,
    at: datetime,
    autopilots: Sequence[AutopilotProposal] = (),
) -> SavingsReport:
    """Add up each plan's newest report."""
    newest = max(reports, key=lambda report: (report.day, report.at))
    together = savings_of_all([found for found in map(measured_of, reports) if found is not None])
    return SavingsReport(
        report_id=report_id,
        at=at,
        day=newest.day,
        objects=newest.objects,
        moves_done=sum(report.moves_done for report in reports),
        moves_failed=sum(report.moves_failed for report in reports),
        before_usd_month=newest.before_usd_month,
        after_usd_month=newest.after_usd_month,
        projected_usd_month=sum((report.projected_usd_month for report in reports), Decimal(0)),
        realised_usd_month=together.realised.month_usd,
        one_time_usd=sum((report.one_time_usd for report in reports), Decimal(0)),
        details={
            "plans": len(reports),
            "measured": as_json(together),
            "autopilots": autopilots_as_json(autopilots),
        },
    )


def as_json(found: PlanSavings) -> dict[str, Any]:
    """Give measured savings as JSON values: money and days as text."""
    plain: dict[str, Any] = _measured().dump_python(found, mode="json")
    return plain


def measured_of(report: SavingsReport) -> PlanSavings | None:
    """Give what was measured from a stored report; None when an earlier release wrote it, which measured nothing."""
    found = report.details.get("measured")
    return None if found is None else _measured().validate_python(found)


@cache
def _measured() -> TypeAdapter[PlanSavings]:
    return TypeAdapter(PlanSavings)
