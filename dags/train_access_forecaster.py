"""
# Train access forecaster

Trains the forecaster of each object's accesses on daily access and inventory, and registers it in MLflow as
`access-forecaster`. The new version is the `challenger`; it becomes the `champion` only if it is no worse than the
standing champion on the newest window, otherwise the MLflow run says why.

**Runs** when both daily access and inventory have been published, or when scoring found drift and asks for it.

**What a failure means**

- `train_forecaster` fails: MLflow (`MLFLOW_TRACKING_URI`) is away, or the lake can't be read. The standing champion
  stays.
- Too little history is no failure: the task's result says so, and scoring uses the rules.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from cloudflux.orchestration import forecaster_tasks
from cloudflux.orchestration.assets import DAILY_ACCESS, FORECASTER, INVENTORY, RETRAINING_WANTED
from cloudflux.orchestration.edge import DEFAULT_ARGS, START_DATE


@dag(
    schedule=((DAILY_ACCESS & INVENTORY) | RETRAINING_WANTED),
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["cloudflux", "forecast"],
)
def train_access_forecaster() -> None:
    """Train, evaluate, register."""
    task(forecaster_tasks.train_forecaster, outlets=[FORECASTER])()


train_access_forecaster()
