"""
# Report savings

Compares what plans expected to save with what their moves have saved since: by the objects' own accesses in the class
that they came from and the one that they are in, and against the objects that were held out. One report for each plan
and one for all together, which also tells of the autopilots of whole buckets that are proposed, in the table `savings`;
`./cloudflux savings` shows them, `docs/savings.md` derives them.

**Runs** when a plan has been carried out, and whenever daily access is published: savings are realised on the days
after the moves. A run without any plan that was carried out is skipped.

**What a failure means**: PostgreSQL or the lake is away. Clear the task: every report is made anew.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from cloudflux.orchestration import savings_tasks
from cloudflux.orchestration.assets import DAILY_ACCESS, LEDGER
from cloudflux.orchestration.edge import DEFAULT_ARGS, START_DATE


@dag(
    schedule=DAILY_ACCESS | LEDGER,
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["cloudflux", "report"],
)
def report_savings() -> None:
    """Report every plan's projected and realised savings."""
    task(savings_tasks.record_savings)()


report_savings()
