"""
# Collect access logs

Turns the providers' access logs (S3 server access logs and CloudTrail data events, Azure resource logs and classic
storage analytics, GCS usage logs and Cloud Audit data access) into daily access: per object and UTC day the reads,
writes and bytes read. Write, audit, publish: nothing is published that Great Expectations refuses. Then it measures
coverage: how much of each bucket's days the logs can be believed to tell (docs/coverage.md).

**Runs** every hour. Each source file (bucket, key, ETag) is taken exactly once; a file that arrives days late is
taken when it arrives, and the days that it touches are published again. A file that has grown, or that a run was
publishing when it was killed, replaces what was read of it before.

**Configuration**: the estate file names the buckets and where their logs are delivered.

**What a failure means**

- `name_refused_log_sources` fails: some logs cannot be listed (the log bucket is gone, the connection is refused, the
  provider was away or throttled at every attempt, one source has the logs of several Azure accounts). The log of the
  task has a line for each, with log bucket, connection and the buckets concerned.
  All others are published. Days that are not listed have no coverage, so that decisions on these buckets are withheld
  before long. Mend it; the next run takes what has gathered.
- `find_*` fails: our database is away, or the estate file is wrong. Clear the task.
- `parse_*` fails: a log bucket is away or throttles. Clear the task; its files are taken again from the start.
- `publish_daily_access` fails with an expectation's name: the batch is wrong as a whole and stays unpublished. Look
  at the examples in the message and at **Data Docs** in the navigation; then clear the task, or mend the cause and let
  the next run take the same files.
- Malformed lines fail nothing: they are in the table `quarantine` with file, line and reason. What a parser does not
  know (a new field, a new operation) is in the task's log and in the table `format_notices`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, dag, task

from cloudflux.orchestration import access_log_tasks, coverage_tasks
from cloudflux.orchestration.assets import DAILY_ACCESS
from cloudflux.orchestration.edge import DEFAULT_ARGS, PROVIDERS


@dag(
    # With a start date, unpausing would start a run for the last tick gone by, and a run started by hand would wait.
    schedule=CronTriggerTimetable("17 * * * *", timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["cloudflux", "collect"],
)
def collect_access_logs() -> None:
    """Find new log files, parse them provider by provider, audit and publish."""
    published = task(
        access_log_tasks.publish_daily_access,
        # A provider without new files has nothing to parse; with no new files at all the data is complete up to now.
        trigger_rule="none_failed",
    )()
    # Last: who waits for daily access wants to know how much of it can be believed.
    task(coverage_tasks.measure_coverage, outlets=[DAILY_ACCESS])(published)
    task(access_log_tasks.name_refused_log_sources)(published)
    for provider in PROVIDERS:
        found = task(access_log_tasks.find_new_log_files, task_id=f"find_{provider}", pool=provider)(provider)
        parsed = task(access_log_tasks.parse_log_files, task_id=f"parse_{provider}", pool=provider).expand_kwargs(found)
        parsed >> published


collect_access_logs()
