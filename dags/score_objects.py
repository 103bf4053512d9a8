"""
# Score objects

Forecasts the accesses of every object of the newest inventory and decides its storage class: keep or move, the
expected cost of each candidate, the reason. One mapped task for each shard.

**Runs** when the forecaster has been trained. Without a champion the rule-based classifier speaks.

**Withheld**: a bucket whose access logs tell less of the last 30 days than its `min_coverage` asks for gets decisions
that keep every object, and a reason that starts with `withheld:` and says which days are missing and what to do. The
results of both tasks count them.

**What a failure means**

- `score_shard` fails: the lake or MLflow is away. Clear the task; the shard is written again, the same bytes.
- `publish_decisions` fails with an expectation's name: the decisions stay unpublished, nothing can be planned from
  them.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from cloudflux.orchestration import scoring_tasks
from cloudflux.orchestration.assets import DECISIONS, FORECASTER
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
    """Score each shard, audit the decisions and publish them."""
    shards = task(scoring_tasks.find_shards)()
    scored = task(scoring_tasks.score_shard).expand_kwargs(shards)
    published = task(scoring_tasks.publish_decisions, outlets=[DECISIONS])()
    scored >> published


score_objects()
