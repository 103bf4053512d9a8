"""What CloudFlux adds to Airflow's web UI. Registration only."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin

from cloudflux_ui.mount import pages


def _mlflow_views() -> list[dict[str, object]]:
    address = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if address.scheme not in ("http", "https") or address.hostname is None:
        return []
    # Without user and password: the link is shown to everybody who is logged in.
    port = f":{address.port}" if address.port else ""
    return [{"name": "MLflow", "href": f"{address.scheme}://{address.hostname}{port}", "destination": "nav"}]


_DATA_DOCS: dict[str, object] = {
    "name": "Data Docs",
    # relative to Airflow's own base, wherever that is mounted
    "href": "cloudflux/data-docs/",
    "url_route": "cloudflux-data-docs",
    "destination": "nav",
    "nav_top_level": True,
}


class CloudFluxPlugin(AirflowPlugin):
    """Adds the Data Docs of all audits, and the way to MLflow's UI, where the forecaster's versions are."""

    name = "cloudflux"
    fastapi_apps = [{"app": pages, "url_prefix": "/cloudflux", "name": "CloudFlux"}]  # noqa: RUF012  # Airflow's own form
    external_views = [_DATA_DOCS, *_mlflow_views()]  # noqa: RUF012  # Airflow's own form
