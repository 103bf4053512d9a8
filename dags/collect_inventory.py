"""
# Collect inventory

Takes a snapshot of every object of the estate: size, storage class and since when, ETag, version, lock state. Where the
estate names an inventory report of the provider, its newest complete one is read; where it names none, the bucket is
listed live.

**Runs** every day at 03:41 UTC. A second run of the same day replaces that day's snapshot.

**What a failure means**

- `name_refused_buckets` fails: the snapshot is published, and all that follows runs, but some bucket has no report that
  can be used. The message names each, with the reason: the report is not there, is older than 8 days, lacks a column,
  is one of several configurations, is damaged, has more than 1 % of rows that cannot be read, or less than 1 % of the
  objects of the last snapshot; or the bucket is gone, or its provider was away at every attempt.
  Nothing is listed live in a report's place. The bucket keeps the objects of its last snapshot until what that was made
  of is 8 days old. After that, and where there is none, the snapshot has none of its objects: nothing is decided about
  them and nothing moves. Mend it and start a new run.
- `find_*` and `list_*` fail: our database is away, or the estate file is wrong. Clear the task; the run goes on.
- `publish_inventory` fails with the buckets' names: all of them are refused. With an expectation's name: the snapshot
  is wrong as a whole. Either way it stays unpublished; the one of the day before stays in force.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, dag, task

from cloudflux.orchestration import inventory_tasks
from cloudflux.orchestration.assets import INVENTORY
from cloudflux.orchestration.edge import DEFAULT_ARGS, PROVIDERS


@dag(
    # With a start date, unpausing would start a run for the last tick gone by, and a run started by hand would wait.
    schedule=CronTriggerTimetable("41 3 * * *", timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["cloudflux", "collect"],
)
def collect_inventory() -> None:
    """Find every bucket's report, read it or list the bucket, publish the snapshot, and name who was refused."""
    published = task(inventory_tasks.publish_inventory, trigger_rule="none_failed", outlets=[INVENTORY])()
    for provider in PROVIDERS:
        parts = task(inventory_tasks.find_inventories, task_id=f"find_{provider}")(provider)
        collected = (
            task(inventory_tasks.collect_part, task_id=f"list_{provider}", pool=provider)
            .partial(provider=provider)
            .expand_kwargs(parts)
        )
        collected >> published
    task(inventory_tasks.name_refused_buckets)(published)


collect_inventory()
