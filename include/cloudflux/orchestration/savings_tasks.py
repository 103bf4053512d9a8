"""The task of `report_savings`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from airflow.sdk import get_current_context

from cloudflux.orchestration.assets import DAILY_ACCESS, LEDGER
from cloudflux.orchestration.edge import batch_of_run, engine, lake, now, settings, terminal_errors_fail

if TYPE_CHECKING:
    from cloudflux.domain.reports import SavingsReport

_MEASURED_AFTER_HORIZON: Final = timedelta(days=31)
"""For so long after a plan's horizon its days are measured anew: late log files change what was measured."""


@terminal_errors_fail
def record_savings() -> dict[str, str | None]:
    """Measure every plan whose moves are within their horizon, and report each, and all together.

    Whole days are measured: what daily access alone starts is done once a day, however often logs are collected.
    """
    from airflow.sdk.exceptions import AirflowSkipException

    from cloudflux.domain.bucket_autopilots import proposed
    from cloudflux.orchestration.estate_books import books_of
    from cloudflux.stores.coverage import CoverageLog
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans
    from cloudflux.stores.savings import MeasuredMoves, Savings
    from cloudflux.workflows.bucket_autopilots import autopilot_proposals
    from cloudflux.workflows.realised import MEASURED_MOVES, measure_savings
    from cloudflux.workflows.report import report_savings

    at, current, database = now(), settings(), engine()
    try:
        if _only_daily_access_is_new() and _reported_on(Savings(database).latest(), at):
            raise AirflowSkipException("measured today already, and no plan has been carried out since")
        plans, moves = Plans(database), MeasuredMoves(database, MEASURED_MOVES)
        since = at - timedelta(days=current.horizon_days) - _MEASURED_AFTER_HORIZON
        measured = [plans.get(plan_id) for plan_id in moves.plans_with_moves_since(since)]
        estate = current.load_estate()
        first = min((plan.created_at for plan in measured), default=at).date()
        found = measure_savings(
            measured,
            moves=moves,
            lake=lake(),
            estate=estate,
            books=books_of(estate),
            coverage=CoverageLog(database).days(first, at.date()),
            at=at,
        )
        autopilots = autopilot_proposals(lake())
        reports = report_savings(
            plans,
            Ledger(database),
            Savings(database),
            found,
            report_id=batch_of_run(),
            at=at,
            autopilots=autopilots,
        )
    finally:
        database.dispose()
    if not reports:
        # daily access is published long before the first plan is carried out
        raise AirflowSkipException("no plan was carried out yet: run migrate_tiers with dry_run off first")
    together = reports[-1]
    realised = together.realised_usd_month
    return {
        "plans": str(together.details["plans"]),
        "projected_usd_month": str(together.projected_usd_month),
        "realised_usd_month": None if realised is None else str(realised),
        "autopilots_proposed": "; ".join(one.described() for one in proposed(autopilots)) or None,
    }


def _only_daily_access_is_new() -> bool:
    events = get_current_context()["triggering_asset_events"]
    return bool(events.get(DAILY_ACCESS)) and not events.get(LEDGER)


def _reported_on(report: SavingsReport | None, at: datetime) -> bool:
    return report is not None and report.at.astimezone(UTC).date() == at.date()
