"""What CloudFlux adds to Airflow's web UI. Registration only."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin


def _mlflow_views() -> list[dict[str, object]]:
    address = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if address.scheme not in ("http", "https") or address.hostname is None:
        return []
    # Without user and password: the link is shown to everybody who is logged in.
    port = f":{address.port}" if address.port else ""
    return [{"name": "MLflow", "href": f"{address.scheme}://{address.hostname}{port}", "destination": "nav"}]


class CloudFluxPlugin(AirflowPlugin):
    """Adds the way from Airflow's navigation to MLflow's UI, where the forecaster's versions are."""

    name = "cloudflux"
    external_views = _mlflow_views()
