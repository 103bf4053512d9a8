"""The tasks of `migrate_tiers`: propose, approve, judge the canaries, close. `MoveRange` carries the moves out."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from cloudflux.orchestration.assets import LEDGER
from cloudflux.orchestration.edge import actor, engine, lake, now, terminal_errors_fail

if TYPE_CHECKING:
    from cloudflux.domain.plans import Guardrails

_MOST_RANGES: Final = 1000
"""Airflow maps a task over 1,024 items at most (`core.max_map_length`): ranges grow with larger plans."""


@terminal_errors_fail
def propose_plan() -> dict[str, Any]:
    """Choose the moves, store them as one plan, and hand on its figures."""
    from cloudflux.orchestration.movers import planned_job_terms
    from cloudflux.stores.plans import Plans
    from cloudflux.workflows import plan as workflow

    context = get_current_context()
    params = context["params"]
    wanted = {
        "run_id": context["dag_run"].run_id,
        "created_at": now(),
        "guardrails": guardrails_of(params),
        "dry_run": bool(params["dry_run"]),
    }
    left_as_they_are = ""
    if params["undo"]:
        from cloudflux.orchestration.undoing import propose_undo
        from cloudflux.workflows.undo import describe_left_out

        proposal = propose_undo(params["undo"].strip(), what_fits=bool(params["undo_what_fits"]), **wanted)
        plan, left_as_they_are = proposal.plan, describe_left_out(proposal)
    else:
        plan = workflow.propose(lake(), Plans(engine()), terms_of=planned_job_terms(), **wanted)
    summary = "\n\n".join(part for part in (workflow.describe(plan), left_as_they_are) if part)
    print(summary)  # noqa: T201  # the task's log is where a dry run is read
    return {
        "plan_id": plan.plan_id,
        "moves": plan.totals.objects,
        "one_time_usd": str(plan.totals.one_time_usd),
        "summary": summary,
    }


def guardrails_of(params: Mapping[str, Any]) -> Guardrails:
    """Read the guardrails from a run's parameters. Raises ``SettingsError`` naming the one that is wrong."""
    from cloudflux.domain.errors import SettingsError
    from cloudflux.domain.plans import Guardrails
    from cloudflux.domain.quiet_hours import QuietHours

    try:
        quiet_hours = QuietHours.parse(params["quiet_hours"]) if params["quiet_hours"] else None
    except ValueError as exc:
        raise SettingsError(f"quiet_hours: {exc}") from exc
    return Guardrails(
        max_objects=int(params["max_objects"]),
        max_bytes=int(params["max_bytes"]),
        max_one_time_usd=Decimal(str(params["max_one_time_usd"])),
        min_saving_usd=Decimal(str(params["min_saving_usd"])),
        min_plan_saving_usd=Decimal(str(params["min_plan_saving_usd"])),
        allowed_prefixes=tuple(params["allowed_prefixes"] or ()),
        excluded_prefixes=tuple(params["excluded_prefixes"] or ()),
        allowed_tags=tuple(params["allowed_tags"] or ()),
        excluded_tags=tuple(params["excluded_tags"] or ()),
        quiet_hours=quiet_hours,
        canary_share=float(params["canary_share"]),
        hold_out_share=float(params["hold_out_share"]),
        valid_days=int(params["valid_days"]),
    )


def choose_path(moves: int, one_time_usd: str) -> str | None:
    """Decide what the plan needs: nothing (dry run or empty), a person's approval, or none."""
    params = get_current_context()["params"]
    if params["dry_run"] or moves == 0:
        return None
    return "record_approval" if _passes_without(params, moves, one_time_usd) else "approve_plan"


def _passes_without(params: Mapping[str, Any], moves: int, one_time_usd: str) -> str | None:
    """Tell why a plan needs no person's approval; None when it needs one."""
    if not params["require_approval"]:
        return "approved by the parameter require_approval=false"
    most_objects, most_usd = int(params["approve_up_to_objects"]), Decimal(str(params["approve_up_to_usd"]))
    if moves <= most_objects and Decimal(one_time_usd) <= most_usd:
        return f"approved by its size: within approve_up_to_objects={most_objects}, approve_up_to_usd={most_usd}"
    return None


@terminal_errors_fail
def record_approval(proposal: Mapping[str, Any], approval: Mapping[str, Any] | None) -> str:
    """Put on the record who approved the plan, and give its id; from here on it may move objects."""
    from cloudflux.domain.plans import PlanState
    from cloudflux.stores.plans import Plans

    plan_id = proposal["plan_id"]
    if approval is not None:
        from cloudflux.orchestration.plan_approval import answer_of

        by, note = answer_of(approval)
    else:
        # never by the mere absence of an answer: a form that timed out or was skipped approves nothing
        reason = _passes_without(get_current_context()["params"], proposal["moves"], proposal["one_time_usd"])
        if reason is None:
            raise AirflowFailException(f"{plan_id} needs a person's approval and has none: nothing is moved")
        by, note = actor(), reason
    plans = Plans(engine())
    plans.check_moves(plan_id)
    plans.set_state(plan_id, PlanState.APPROVED, by, now(), note)
    return str(plan_id)


@terminal_errors_fail
def find_canaries(plan_id: str, provider: str) -> list[dict[str, str | int]]:
    """Cut one provider's canary moves of the plan into ranges to carry out."""
    from cloudflux.domain.plans import MoveRole

    return [found for found in ranges_of(plan_id, MoveRole.CANARY) if found["provider"] == provider]


@terminal_errors_fail
def judge_canaries(plan_id: str) -> dict[str, int]:
    """Let the rest of the plan go on, or halt it."""
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans
    from cloudflux.workflows.migrate import judge_canaries as judge

    database = engine()
    return judge(Plans(database), Ledger(database), plan_id=plan_id, actor=actor(), clock=now)


@terminal_errors_fail
def find_ranges(plan_id: str, provider: str) -> list[dict[str, str | int]]:
    """Cut one provider's moves of the plan into ranges to carry out."""
    from cloudflux.domain.plans import MoveRole

    return [found for found in ranges_of(plan_id, MoveRole.MOVE) if found["provider"] == provider]


def ranges_of(plan_id: str, role: Any) -> list[dict[str, str | int]]:
    """Cut a plan's moves of one role as the tasks do that carry them out, each holding its range meanwhile."""
    from dataclasses import asdict

    from cloudflux.orchestration.movers import range_moves
    from cloudflux.stores.plans import Plans

    database = engine()
    try:
        plans = Plans(database)
        plan = plans.get(plan_id)
        least = -(-plan.totals.objects // _MOST_RANGES)
        return [
            asdict(found)
            for found in plans.ranges(
                plan_id, role, lambda provider, bucket: max(least, range_moves(plan, provider=provider, bucket=bucket))
            )
        ]
    finally:
        database.dispose()


@terminal_errors_fail
def close_plan(proposal: Mapping[str, Any] | None) -> dict[str, int]:
    """Settle the plan: finished, halted, expired, rejected, or (a dry run, an empty plan) nothing to settle."""
    from cloudflux.domain.plans import PlanState
    from cloudflux.orchestration.movers import retire_rules
    from cloudflux.stores.ledger import Ledger
    from cloudflux.stores.plans import Plans
    from cloudflux.workflows.migrate import close

    if proposal is None:
        raise AirflowFailException("there is no plan to settle: propose_plan failed, see its log")
    plan_id = proposal["plan_id"]
    database = engine()
    plans = Plans(database)
    state = plans.get(plan_id).state
    if state in (PlanState.REJECTED, PlanState.EXPIRED):
        raise AirflowSkipException(f"{plan_id} was {state}: nothing moved")
    if state in (PlanState.PREVIEW, PlanState.EMPTY):
        raise AirflowSkipException(f"{plan_id} is {state}: nothing to move")
    if state is PlanState.PROPOSED:
        raise AirflowFailException(f"{plan_id} was not approved: see the log of approve_plan; nothing moved")
    counts = close(plans, Ledger(database), plan_id=plan_id, actor=actor(), clock=now)
    retire_rules(plans.get(plan_id))
    if plans.get(plan_id).state is PlanState.HALTED:
        raise AirflowFailException(f"{plan_id} was halted after its canary moves: {plans.history(plan_id)[-1].note}")
    get_current_context()["outlet_events"][LEDGER].extra = {"plan_id": plan_id, **counts}
    return counts
