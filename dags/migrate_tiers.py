"""
# Migrate tiers

Carries out what `score_objects` decided: one plan, a person's approval, a few canary moves first, then the rest, every
move submitted, verified and recorded.

**Runs** after each publication of decisions, then as a **dry run**: it stores a preview plan and moves nothing. To
move objects, trigger it with `dry_run` off; it then waits in *Required Actions* for somebody who approves the plan's
figures.

**Example configuration**

    {"dry_run": false, "max_objects": 100000, "max_one_time_usd": 50, "quiet_hours": "08:00-18:00 Europe/Berlin"}

    {"undo": "plan-0123456789abcdef", "dry_run": false, "max_one_time_usd": 50}

The second one takes the moves of an earlier plan back; `undo` may also be an object's address. Its cost is stated
before anything moves, and all else is as for any plan. `./cloudflux undo` starts it from the command line.

**What a failure means**

- `propose_plan` fails: there are no decisions yet (run `score_objects`), a parameter makes no sense (the message names
  it), there is nothing to undo or it breaks a cap, or PostgreSQL is away. Nothing has moved.
- `approve_plan` fails: nobody answered within seven days; the plan has expired, nothing has moved.
- `move_*` (canaries or the rest) fails: the provider throttles or is away, or credentials have expired. Clear the task:
  the ledger knows what is left to do, nothing is moved twice.
- `judge_canaries` fails: a canary move failed, and the plan is halted; or the plan expired before they were done. The
  rest stays where it is.
- `close_plan` fails: a move is neither done, failed nor skipped (clear the failed `move_*` tasks), or the plan was
  halted.
- A single move that failed does not fail the run: look into the ledger (table `ledger`) for the reason.

A `move_*` task that is *deferred* waits for quiet hours to end, for restores from an archive class, or for the
provider's own jobs and rules.

**Rejecting** the plan ends the run without a move.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag, task

from cloudflux.orchestration import migration_tasks
from cloudflux.orchestration.assets import DECISIONS, LEDGER
from cloudflux.orchestration.edge import DEFAULT_ARGS, PROVIDERS, START_DATE
from cloudflux.orchestration.move_operator import MOVE_RETRIES, MoveRange
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
        "undo": Param(
            None,
            type=["null", "string"],
            title="Undo",
            description="Take moves back instead: a plan's id, or an object's address for its newest move.",
        ),
        "undo_what_fits": Param(
            False,
            type="boolean",
            title="Undo what fits",
            description="Take back as many moves as the caps allow. Off: an undo that breaks a cap is refused.",
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
            description="Least expected net saving of one move over the horizon. Moves to a pinned class need none.",
        ),
        "min_plan_saving_usd": Param(
            0.0,
            type="number",
            minimum=0,
            title="Least saving of the plan, USD",
            description="If the moves save less together over the horizon, only those to a pinned class are made.",
        ),
        "allowed_prefixes": Param(
            [],
            type=["null", "array"],
            items={"type": "string"},
            title="Only below",
            description="Addresses below which objects may move, as s3://bucket/logs/. None: everywhere.",
        ),
        "excluded_prefixes": Param(
            [],
            type=["null", "array"],
            items={"type": "string"},
            title="Never below",
            description="Addresses below which nothing moves.",
        ),
        "allowed_tags": Param(
            [],
            type=["null", "array"],
            items={"type": "string"},
            title="Only with a tag",
            description="key=value or key: objects without any of them are skipped. None: all may move.",
        ),
        "excluded_tags": Param(
            [],
            type=["null", "array"],
            items={"type": "string"},
            title="Never with a tag",
            description="key=value or key: objects with one of them are skipped.",
        ),
        "quiet_hours": Param(
            None,
            type=["null", "string"],
            title="Quiet hours",
            description="Nothing moves then, every day: 08:00-18:00 or 22:00-06:00 Europe/Berlin. UTC unless told.",
        ),
        "canary_share": Param(
            0.01,
            type="number",
            minimum=0,
            exclusiveMaximum=1,
            title="Canary share",
            description="Share of the moves of each kind that go first; the rest moves only if they went well.",
        ),
        "hold_out_share": Param(
            0.0,
            type="number",
            minimum=0,
            exclusiveMaximum=1,
            title="Hold-out share",
            description="Share of the objects that never move: shows what the moves caused. 0: nothing will; try 0.05.",
        ),
        "valid_days": Param(
            14,
            type="integer",
            minimum=1,
            maximum=365,
            title="Days that the plan is good for",
            description="After that nothing of it begins to move.",
        ),
        "approve_up_to_objects": Param(
            0,
            type="integer",
            minimum=0,
            title="Without approval up to moves",
            description="A plan of no more moves, that costs no more than the next limit, needs no person's approval.",
        ),
        "approve_up_to_usd": Param(
            0.0,
            type="number",
            minimum=0,
            title="Without approval up to one-time USD",
            description="See above; both limits must hold.",
        ),
    },
)
def migrate_tiers() -> None:
    """Plan, approve, move canaries, move the rest, close."""
    plan = task(migration_tasks.propose_plan, multiple_outputs=True)()
    path = task.branch(migration_tasks.choose_path)(moves=plan["moves"], one_time_usd=plan["one_time_usd"])
    approval = PlanApproval(
        task_id="approve_plan",
        subject="Move objects to other storage classes?",
        body="{{ ti.xcom_pull(task_ids='propose_plan', key='summary') }}",
        params={"note": Param(None, type=["null", "string"], title="Note for the record")},
        response_timeout=timedelta(days=7),
        retries=0,
    )
    approved = task(migration_tasks.record_approval, trigger_rule="none_failed_min_one_success")(
        proposal=plan, approval=approval.output
    )
    # A rejection skips what stands directly below the approval: `close_plan`, which settles the run, must not.
    closed = task(migration_tasks.close_plan, trigger_rule="all_done", outlets=[LEDGER])(proposal=plan)
    path >> [approval, approved]
    # Without canaries there is nothing to map over, and `move_canaries_*` are skipped. The plan's id comes from the
    # approval: with `propose_plan` right above it, this would also go on when nothing was approved.
    judged = task(migration_tasks.judge_canaries, trigger_rule="none_failed_min_one_success")(approved)
    for provider in PROVIDERS:
        canaries = task(migration_tasks.find_canaries, task_id=f"find_canaries_{provider}")(approved, provider)
        moved_first = MoveRange.partial(
            task_id=f"move_canaries_{provider}", pool=provider, plan_id=plan["plan_id"], retries=MOVE_RETRIES
        ).expand_kwargs(canaries)
        moved_first >> judged
        ranges = task(migration_tasks.find_ranges, task_id=f"find_{provider}")(plan["plan_id"], provider)
        moved = MoveRange.partial(
            task_id=f"move_{provider}", pool=provider, plan_id=plan["plan_id"], retries=MOVE_RETRIES
        ).expand_kwargs(ranges)
        judged >> ranges
        moved >> closed


migrate_tiers()
