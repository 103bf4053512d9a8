"""
# Report savings

Compares what the newest finished plan expected to save with what its ledger shows: projected and realised savings, a
month and a year, in USD and percent. The report is kept in the table `savings`.

**Runs** when a plan has been carried out.

**What a failure means**: `report_savings` fails when PostgreSQL is away or no plan was ever carried out.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from cloudflux.orchestration import savings_tasks
from cloudflux.orchestration.assets import LEDGER
from cloudflux.orchestration.edge import DEFAULT_ARGS, START_DATE


@dag(
    schedule=[LEDGER],
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["cloudflux", "report"],
)
def report_savings() -> None:
    """Report the newest plan's projected and realised savings."""
    task(savings_tasks.record_savings)()


report_savings()
