"""The task of `report_savings`."""

from __future__ import annotations

from typing import Any

from airflow.sdk import get_current_context

from cloudflux.orchestration.assets import LEDGER
from cloudflux.orchestration.edge import batch_of_run, engine, now, terminal_errors_fail


@terminal_errors_fail
def record_savings() -> dict[str, str]:
    """Report the plan that was just carried out; in a run started by hand, the newest finished one."""
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans
    from cloudflux.stores.savings import Savings
    from cloudflux.workflows.report import report_savings

    database = engine()
    plans = Plans(database)
    report = report_savings(
        plans,
        Ledger(database),
        Savings(database),
        plan_id=_plan_that_was_carried_out() or _newest_finished(plans),
        report_id=batch_of_run(),
        at=now(),
    )
    return {
        "plan_id": str(report.details["plan_id"]),
        "projected_usd_month": str(report.projected_usd_month),
        "realised_usd_month": str(report.realised_usd_month),
    }


def _plan_that_was_carried_out() -> str | None:
    events = get_current_context()["triggering_asset_events"].get(LEDGER, [])
    return str(events[-1].extra["plan_id"]) if events else None


def _newest_finished(plans: Any) -> str:
    from cloudflux.domain.errors import TerminalError
    from cloudflux.domain.plans import PlanState

    for plan in plans.recent(100, dry_run=False):
        if plan.state is PlanState.FINISHED:
            return str(plan.plan_id)
    raise TerminalError("no plan was carried out yet: run migrate_tiers with dry_run off first")
