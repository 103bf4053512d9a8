"""What the DAGs publish and wait for."""

from __future__ import annotations

from typing import Final

from airflow.sdk import Asset

DAILY_ACCESS: Final = Asset(uri="cloudflux://daily-access", name="daily_access", group="lake")
INVENTORY: Final = Asset(uri="cloudflux://inventory", name="inventory", group="lake")
INGESTION_STAGING: Final = Asset(uri="cloudflux://ingestion-staging", name="ingestion_staging", group="postgres")
FORECASTER: Final = Asset(uri="cloudflux://forecaster", name="forecaster", group="mlflow")
DECISIONS: Final = Asset(uri="cloudflux://decisions", name="decisions", group="lake")
LEDGER: Final = Asset(uri="cloudflux://ledger", name="ledger", group="postgres")
