"""
# Collect inventory

Takes a snapshot of every object of the estate: size, storage class and since when, ETag, version, lock state. Where a
provider delivers no inventory report the bucket is listed live.

**Runs** every day at 03:41 UTC. A second run of the same day replaces that day's snapshot.

**What a failure means**

- `list_*` fails: the bucket is away, throttles, or the connection may not list it. The message names both.
- `publish_inventory` fails with an expectation's name: the snapshot is wrong as a whole and stays unpublished; the
  one of the day before stays in force.
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
    """List every bucket, audit the snapshot and publish it."""
    published = task(inventory_tasks.publish_inventory, trigger_rule="none_failed", outlets=[INVENTORY])()
    for provider in PROVIDERS:
        buckets = task(inventory_tasks.find_buckets, task_id=f"find_{provider}")(provider)
        listed = (
            task(inventory_tasks.list_bucket, task_id=f"list_{provider}", pool=provider)
            .partial(provider=provider)
            .expand_kwargs(buckets)
        )
        listed >> published


collect_inventory()
