"""
# Migrate tiers

Carries out what `score_objects` decided: one plan, a person's approval, then every move submitted, verified and
recorded.

**Runs** after each publication of decisions, then as a **dry run**: it stores a preview plan and moves nothing. To
move objects, trigger it with `dry_run` off; it then waits in *Required Actions* for somebody who approves the plan's
figures.

**Example configuration**

    {"dry_run": false, "max_objects": 100000, "max_one_time_usd": 50}

**What a failure means**

- `propose_plan` fails: there are no decisions yet (run `score_objects`), or PostgreSQL is away. Nothing has moved.
- `submit_*` or `verify_*` fails: the provider throttles or is away. Clear the task: the ledger knows what is left to
  do, nothing is moved twice.
- `close_plan` fails: a move is neither done, failed nor skipped. Clear the failed `submit_*` or `verify_*` tasks.
- A single move that failed does not fail the run: look into the ledger (table `ledger`) for the reason.

**Rejecting** the plan ends the run without a move.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag, task

from cloudflux.orchestration import migration_tasks
from cloudflux.orchestration.assets import DECISIONS, LEDGER
from cloudflux.orchestration.edge import DEFAULT_ARGS, PROVIDERS, START_DATE
from cloudflux.orchestration.plan_approval import PlanApproval


@dag(
    schedule=[DECISIONS],
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["cloudflux", "migrate"],
    params={
        "dry_run": Param(
            True, type="boolean", title="Dry run", description="Only store a preview of the plan. Moves nothing."
        ),
        "require_approval": Param(
            True, type="boolean", title="Require approval", description="Wait until a person approves the plan."
        ),
        "max_objects": Param(
            100_000,
            type="integer",
            minimum=1,
            maximum=10_000_000,
            title="Most objects",
            description="Moves of one plan.",
        ),
        "max_bytes": Param(
            10 * 2**40, type="integer", minimum=1, title="Most bytes", description="Bytes of all moves of one plan."
        ),
        "max_one_time_usd": Param(
            100.0,
            type="number",
            minimum=0,
            title="Most one-time USD",
            description="What all moves of one plan may cost.",
        ),
        "min_saving_usd": Param(
            0.0,
            type="number",
            minimum=0,
            title="Least saving USD",
            description="Least expected net saving of one move over the horizon.",
        ),
    },
)
def migrate_tiers() -> None:
    """Plan, approve, submit, verify, close."""
    plan = task(migration_tasks.propose_plan, multiple_outputs=True)()
    path = task.branch(migration_tasks.choose_path)(moves=plan["moves"])
    approval = PlanApproval(
        task_id="approve_plan",
        subject="Move objects to other storage classes?",
        body="{{ ti.xcom_pull(task_ids='propose_plan', key='summary') }}",
        params={"note": Param(None, type=["null", "string"], title="Note for the record")},
        response_timeout=timedelta(days=7),
        retries=0,
    )
    approved = task(migration_tasks.record_approval, trigger_rule="none_failed_min_one_success")(
        plan_id=plan["plan_id"], approval=approval.output
    )
    # A rejection skips what stands directly below the approval: `close_plan`, which settles the run, must not.
    closed = task(migration_tasks.close_plan, trigger_rule="all_done", outlets=[LEDGER])(proposal=plan)
    path >> [approval, approved]
    for provider in PROVIDERS:
        ranges = task(migration_tasks.find_ranges, task_id=f"find_{provider}")(plan["plan_id"], provider)
        submitted = (
            task(migration_tasks.submit_moves, task_id=f"submit_{provider}", pool=provider)
            .partial(plan_id=plan["plan_id"], provider=provider)
            .expand_kwargs(ranges)
        )
        verified = (
            task(migration_tasks.verify_moves, task_id=f"verify_{provider}", pool=provider)
            .partial(plan_id=plan["plan_id"], provider=provider)
            .expand_kwargs(ranges)
        )
        approved >> ranges
        submitted >> verified >> closed


migrate_tiers()
