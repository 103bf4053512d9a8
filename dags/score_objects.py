"""
# Score objects

Forecasts the accesses of every object of the newest inventory and decides its storage class: keep or move, the
expected cost of each candidate, the reason. One mapped task for each shard. The model's file and the placement
tables are put into the lake once, where all shards, retries and explanations read them.

**Runs** when the forecaster has been trained. Without a champion the rule-based classifier speaks.

**Withheld**: a bucket whose access logs tell less of the last 30 days than its `min_coverage` asks for gets decisions
that keep every object, and a reason that starts with `withheld:` and says which days are missing and what to do. The
results of both tasks count them.

**Refuted**: objects whose own reads cost more than the model had led to expect are decided by break-even for 30 days;
the results of `score_shard` count them.

**Autopilots** of whole buckets and accounts that would be cheaper are proposed in the result of `publish_decisions`;
`./cloudflux autopilots` shows them. Nothing switches them on.

**Drift** is measured last: the scored objects' features against the training's, forecasts of earlier days against
what came of them, and how many objects have refuted the model. Beyond the limits of the settings `ask_for_training`
publishes the Asset that starts `train_access_forecaster`; else it is skipped.

**What a failure means**

- `score_shard` fails: the lake or MLflow is away. Clear the task; the shard is written again, the same bytes.
- `publish_decisions` fails with an expectation's name: the decisions stay unpublished, nothing can be planned from
  them.
- `measure_drift` fails: MLflow or our database is away. The decisions are published; clear the task when they are back.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from cloudflux.orchestration import scoring_tasks
from cloudflux.orchestration.assets import DECISIONS, FORECASTER, RETRAINING_WANTED
from cloudflux.orchestration.edge import DEFAULT_ARGS, START_DATE


@dag(
    schedule=[FORECASTER],
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["cloudflux", "decide"],
)
def score_objects() -> None:
    """Score each shard, audit the decisions and publish them, and measure drift."""
    shards = task(scoring_tasks.find_shards)()
    scored = task(scoring_tasks.score_shard).expand_kwargs(shards)
    published = task(scoring_tasks.publish_decisions, outlets=[DECISIONS])()
    drift = task(scoring_tasks.measure_drift)(scored)
    scored >> published >> drift
    task(scoring_tasks.ask_for_training, outlets=[RETRAINING_WANTED])(drift)


score_objects()
