"""Airflow's own approval form, for a plan: a rejection is put on the record at once."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator


class PlanApproval(ApprovalOperator):  # type: ignore[misc]  # Airflow's operators have no types here
    """An ``ApprovalOperator`` that marks the plan of ``propose_plan`` rejected when that is the answer.

    Skipping what follows ends the operator without a result, so that no later task could tell who rejected the plan.
    """

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record a rejection, then let Airflow go on or skip the rest."""
        if event.get("chosen_options") == [self.REJECT]:
            from cloudflux.domain.plans import PlanState
            from cloudflux.orchestration.edge import engine, now
            from cloudflux.stores.plans import Plans

            by, note = answer_of(event)
            plan_id = context["ti"].xcom_pull(task_ids="propose_plan", key="plan_id")
            Plans(engine()).set_state(plan_id, PlanState.REJECTED, by, now(), note)
        return super().execute_complete(context, event)


def answer_of(response: Any) -> tuple[str, str]:
    """Give who answered an approval form, and the note that they left."""
    user = response.get("responded_by_user") or {}
    by = user.get("name") or user.get("id") or "unknown"
    return str(by), str((response.get("params_input") or {}).get("note") or "")
