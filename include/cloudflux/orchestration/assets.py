"""What the DAGs publish and wait for.

The scheme begins with `x-`: for any other, Airflow looks through all providers for a normaliser of the URI, which
imports boto3 and google.cloud in every process that parses a DAG, each task's included.
"""

from __future__ import annotations

from typing import Final

from airflow.sdk import Asset

DAILY_ACCESS: Final = Asset(uri="x-cloudflux://daily-access", name="daily_access", group="lake")
INVENTORY: Final = Asset(uri="x-cloudflux://inventory", name="inventory", group="lake")
INGESTION_STAGING: Final = Asset(uri="x-cloudflux://ingestion-staging", name="ingestion_staging", group="postgres")
FORECASTER: Final = Asset(uri="x-cloudflux://forecaster", name="forecaster", group="mlflow")
RETRAINING_WANTED: Final = Asset(uri="x-cloudflux://retraining-wanted", name="retraining_wanted", group="mlflow")
DECISIONS: Final = Asset(uri="x-cloudflux://decisions", name="decisions", group="lake")
LEDGER: Final = Asset(uri="x-cloudflux://ledger", name="ledger", group="postgres")
