"""
# Drain ingestion topic

Drains the Kafka topic `data-ingestion` into PostgreSQL staging tables: new objects are known before any inventory
sees them. Rows and offsets are stored in one transaction, so nothing is lost or counted twice, whatever is killed.

**Runs** all the time, one run after another: a deferrable sensor waits in the triggerer for lag and holds no worker
slot, then the drain reads up to the offsets that were the newest when it began.

**What a failure means**

- `wait_for_messages` fails: the brokers of `KAFKA_BOOTSTRAP_SERVERS` can't be reached, or the topic does not exist.
  After an hour without messages it is skipped, which is no failure.
- `drain_messages` fails with a gap: Kafka deleted messages before they were drained. Raise the topic's retention; to go
  on without them, trigger a run with `accept_gaps` on.
- `drain_messages` fails with an expectation's name: the batch is wrong as a whole; nothing of it is stored, the
  offsets stay where they were.
- Malformed messages fail nothing: they are in the table `staging.dead_letters` with the reason.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag, task

from cloudflux.orchestration import ingestion_tasks
from cloudflux.orchestration.assets import INGESTION_STAGING
from cloudflux.orchestration.edge import DEFAULT_ARGS, START_DATE
from cloudflux.orchestration.kafka_sensor import IngestionLagSensor


@dag(
    schedule="@continuous",
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["cloudflux", "ingest"],
    params={
        "accept_gaps": Param(
            False,
            type="boolean",
            title="Accept gaps",
            description="Go on after messages that Kafka deleted before they were drained, and put the gap on record.",
        )
    },
)
def drain_ingestion_topic() -> None:
    """Wait for messages, then drain them."""
    waited = IngestionLagSensor(task_id="wait_for_messages", timeout=timedelta(hours=1), soft_fail=True)
    drained = task(ingestion_tasks.drain_messages, outlets=[INGESTION_STAGING])()
    waited >> drained


drain_ingestion_topic()
