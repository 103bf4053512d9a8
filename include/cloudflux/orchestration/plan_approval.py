"""Airflow's own approval form, for a plan: a rejection is put on the record at once."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator


class PlanApproval(ApprovalOperator):  # type: ignore[misc]  # Airflow's operators have no types here
    """An ``ApprovalOperator`` that marks the plan of ``propose_plan`` rejected, or expired when nobody answers.

    Skipping what follows ends the operator without a result, so that no later task could tell who rejected the plan.
    """

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record a rejection, or that nobody answered in time, then let Airflow go on, skip the rest or fail."""
        if event.get("error_type") == "timeout":
            from cloudflux.domain.plans import PlanState

            _record(context, PlanState.EXPIRED, "airflow", "nobody answered the approval form in time")
        if event.get("chosen_options") == [self.REJECT]:
            from cloudflux.domain.plans import PlanState

            _record(context, PlanState.REJECTED, *answer_of(event))
        return super().execute_complete(context, event)


def _record(context: Any, state: Any, by: str, note: str) -> None:
    from cloudflux.orchestration.edge import engine, now
    from cloudflux.stores.plans import Plans

    plan_id = context["ti"].xcom_pull(task_ids="propose_plan", key="plan_id")
    Plans(engine()).set_state(plan_id, state, by, now(), note)


def answer_of(response: Any) -> tuple[str, str]:
    """Give who answered an approval form, and the note that they left."""
    user = response.get("responded_by_user") or {}
    by = user.get("name") or user.get("id") or "unknown"
    return str(by), str((response.get("params_input") or {}).get("note") or "")
