"""The tasks of `migrate_tiers`: propose, approve, submit, verify, close."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from cloudflux.orchestration.assets import LEDGER
from cloudflux.orchestration.edge import actor, engine, lake, now, settings, terminal_errors_fail

_CHUNK_MOVES = 500
"""Moves of one mapped task: large enough that starting the task is a small part, small enough to repeat."""

APPROVED_WITHOUT_A_PERSON = "approved by the parameter require_approval=false"


@terminal_errors_fail
def propose_plan() -> dict[str, Any]:
    """Choose the moves, store them as one plan, and hand on its figures."""
    from cloudflux.domain.plans import Guardrails
    from cloudflux.stores.plans import Plans
    from cloudflux.workflows import plan as workflow

    context = get_current_context()
    params = context["params"]
    plan = workflow.propose(
        lake(),
        Plans(engine()),
        run_id=context["dag_run"].run_id,
        created_at=now(),
        guardrails=Guardrails(
            max_objects=int(params["max_objects"]),
            max_bytes=int(params["max_bytes"]),
            max_one_time_usd=Decimal(str(params["max_one_time_usd"])),
            min_saving_usd=Decimal(str(params["min_saving_usd"])),
        ),
        dry_run=bool(params["dry_run"]),
    )
    summary = workflow.describe(plan)
    print(summary)  # noqa: T201  # the task's log is where a dry run is read
    return {"plan_id": plan.plan_id, "moves": plan.totals.objects, "summary": summary}


def choose_path(moves: int) -> str | None:
    """Decide what the plan needs: nothing (dry run or empty), a person's approval, or none."""
    params = get_current_context()["params"]
    if params["dry_run"] or moves == 0:
        return None
    return "approve_plan" if params["require_approval"] else "record_approval"


@terminal_errors_fail
def record_approval(plan_id: str, approval: Mapping[str, Any] | None) -> None:
    """Put on the record who approved the plan; from here on it may move objects."""
    from cloudflux.domain.plans import PlanState
    from cloudflux.stores.plans import Plans

    by, note = actor(), APPROVED_WITHOUT_A_PERSON
    if approval is not None:
        from cloudflux.orchestration.plan_approval import answer_of

        by, note = answer_of(approval)
    Plans(engine()).set_state(plan_id, PlanState.APPROVED, by, now(), note)


@terminal_errors_fail
def find_ranges(plan_id: str, provider: str) -> list[dict[str, str | int]]:
    """Cut one provider's moves of the plan into ranges to carry out."""
    from cloudflux.stores.plans import Plans
    from cloudflux.workflows.plan import chunks_of

    return chunks_of(Plans(engine()).get(plan_id), provider, _CHUNK_MOVES)


@terminal_errors_fail
def submit_moves(plan_id: str, provider: str, bucket: str, first: int, last: int) -> dict[str, int]:
    """Submit one range of moves through the provider's client."""
    from cloudflux.workflows.migrate import submit

    return _carry_out(submit, plan_id, provider=provider, bucket=bucket, first=first, last=last)


@terminal_errors_fail
def verify_moves(plan_id: str, provider: str, bucket: str, first: int, last: int) -> dict[str, int]:
    """Compare one range of moved objects with what they were before."""
    from cloudflux.workflows.migrate import verify

    return _carry_out(verify, plan_id, provider=provider, bucket=bucket, first=first, last=last)


def _carry_out(
    step: Callable[..., dict[str, int]], plan_id: str, *, provider: str, bucket: str, first: int, last: int
) -> dict[str, int]:
    from cloudflux.orchestration.clients import tier_client
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans

    named = settings().load_estate().bucket(provider, bucket)
    database = engine()
    return step(
        tier_client(named.provider, named.connection_id),
        Plans(database),
        Ledger(database),
        plan_id=plan_id,
        first=first,
        last=last,
        actor=actor(),
        clock=now,
    )


@terminal_errors_fail
def close_plan(proposal: Mapping[str, Any] | None) -> dict[str, int]:
    """Settle the plan: finished, rejected, or (a dry run, an empty plan) nothing to settle."""
    from airflow.sdk.exceptions import AirflowFailException

    from cloudflux.domain.plans import PlanState
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans
    from cloudflux.workflows.migrate import close

    if proposal is None:
        raise AirflowFailException("there is no plan to settle: propose_plan failed, see its log")
    plan_id = proposal["plan_id"]
    database = engine()
    plans = Plans(database)
    state = plans.state(plan_id)
    if state is PlanState.REJECTED:
        raise AirflowSkipException(f"{plan_id} was rejected: nothing moved")
    if state in (PlanState.PREVIEW, PlanState.EMPTY):
        raise AirflowSkipException(f"{plan_id} is {state}: nothing to move")
    if state is PlanState.PROPOSED:
        raise AirflowFailException(f"{plan_id} was not approved: see the log of approve_plan; nothing moved")
    counts = close(plans, Ledger(database), plan_id=plan_id, moves=proposal["moves"], actor=actor(), clock=now)
    get_current_context()["outlet_events"][LEDGER].extra = {"plan_id": plan_id, **counts}
    return counts
