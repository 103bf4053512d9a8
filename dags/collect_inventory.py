"""
# Collect inventory

Takes a snapshot of every object of the estate: size, storage class and since when, ETag, version, lock state. Where the
estate names an inventory report of the provider, its newest complete one is read; where it names none, the bucket is
listed live.

**Runs** every day at 03:41 UTC. A second run of the same day replaces that day's snapshot.

**What a failure means**

- `find_*` fails: a bucket's report is not there, is older than 8 days, or lacks a column. The message names the bucket,
  where it looked and what it passed over, and the field to switch on. Nothing is listed live in a report's place.
- `list_*` fails: the bucket is away, throttles, or the connection may not read it; or a data file of the report is
  damaged. The message names it. A report whose manifest is deleted is not taken: the one before it is.
- `publish_inventory` fails with a report's name: more than 1 % of its rows cannot be read, or rows are missing. With an
  expectation's name: the snapshot is wrong as a whole. Either way it stays unpublished; the one of the day before stays
  in force.
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
    """Find every bucket's report, read it or list the bucket, audit the snapshot and publish it."""
    published = task(inventory_tasks.publish_inventory, trigger_rule="none_failed", outlets=[INVENTORY])()
    for provider in PROVIDERS:
        parts = task(inventory_tasks.find_inventories, task_id=f"find_{provider}")(provider)
        collected = (
            task(inventory_tasks.collect_part, task_id=f"list_{provider}", pool=provider)
            .partial(provider=provider)
            .expand_kwargs(parts)
        )
        collected >> published


collect_inventory()
