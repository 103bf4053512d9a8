"""Airflow's four processes: their command lines, schema, health and pools, over the REST API if there is a choice."""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cloudflux.local.environment import passwords_file
from cloudflux.local.errors import ServiceFailed
from cloudflux.local.layout import Layout, Secrets, write_json
from cloudflux.local.ports import LOOPBACK

POOLS: Final[Mapping[str, str]] = {
    "aws": "requests to S3",
    "azure": "requests to Azure Blob Storage",
    "gcp": "requests to Google Cloud Storage",
}
_POOL_SLOTS: Final = 4

COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "airflow-api-server": ("api-server",),
    # without their own log servers, which would listen on every interface: all processes share one log folder
    "airflow-scheduler": ("scheduler", "--skip-serve-logs"),
    "airflow-dag-processor": ("dag-processor",),
    "airflow-triggerer": ("triggerer", "--skip-serve-logs"),
}

_HEARTBEATS: Final[Mapping[str, tuple[str, str]]] = {
    "airflow-scheduler": ("scheduler", "latest_scheduler_heartbeat"),
    "airflow-dag-processor": ("dag_processor", "latest_dag_processor_heartbeat"),
    "airflow-triggerer": ("triggerer", "latest_triggerer_heartbeat"),
}


def command(service: str) -> tuple[str, ...]:
    """Give one process's command line."""
    return (sys.executable, "-m", "airflow", *COMMANDS[service])


def write_passwords(layout: Layout, secrets: Secrets) -> None:
    """Give SimpleAuthManager its users' passwords, else it would invent and print them."""
    write_json(passwords_file(layout), {"admin": secrets.airflow_admin, "viewer": secrets.airflow_viewer})


def schema_version() -> str:
    """Name the schema that the installed Airflow wants."""
    return importlib.metadata.version("apache-airflow-core")


def migrate(environment: Mapping[str, str], log: Path) -> None:
    """Bring Airflow's tables to the installed version: about ten seconds. Raises ``ServiceFailed``."""
    with log.open("w", encoding="utf-8") as file:
        migrated = subprocess.run(
            (sys.executable, "-m", "airflow", "db", "migrate"),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if migrated.returncode != 0:
        raise ServiceFailed(f"Airflow's database could not be migrated: see {log}")


def heartbeats(port: int) -> dict[str, datetime | None]:
    """Give when each background process was last alive, as Airflow says. Raises ``OSError`` while nothing answers."""
    status, health = request(port, "GET", "/api/v2/monitor/health")
    if status != http.client.OK:
        raise ConnectionError(f"Airflow's health page answers {status}")
    beats: dict[str, datetime | None] = {}
    for service, (component, field) in _HEARTBEATS.items():
        text = (health.get(component) or {}).get(field)
        beats[service] = datetime.fromisoformat(text) if text else None
    return beats


def token(port: int, user: str, password: str) -> str:
    """Log in to the REST API. Raises ``ServiceFailed`` when Airflow refuses."""
    status, answer = request(port, "POST", "/auth/token", {"username": user, "password": password})
    if status != http.client.CREATED:
        raise ServiceFailed(f"Airflow does not let {user} in: status {status}")
    return str(answer["access_token"])


def make_pools(port: int, bearer: str) -> None:
    """Make a pool for each provider, so that one provider's throttling does not starve the others."""
    _, present = request(port, "GET", "/api/v2/pools", bearer=bearer)
    names = {pool["name"] for pool in present.get("pools", ())}
    for pool, description in POOLS.items():
        if pool in names:
            continue
        body = {"name": pool, "slots": _POOL_SLOTS, "description": description, "include_deferred": False}
        status, answer = request(port, "POST", "/api/v2/pools", body, bearer)
        if status != http.client.CREATED:
            raise ServiceFailed(f"Airflow's pool {pool} could not be made: status {status}, {answer}")


def request(
    port: int, method: str, path: str, body: Mapping[str, Any] | None = None, bearer: str | None = None
) -> tuple[int, dict[str, Any]]:
    """Ask the REST API; give the status and the JSON object of the answer. Raises ``OSError`` while nothing answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        content = response.read()
    except http.client.HTTPException as exc:
        raise ConnectionError(f"Airflow broke off: {exc!r}") from exc
    finally:
        connection.close()
    try:
        answer: dict[str, Any] = json.loads(content)
    except ValueError:
        answer = {}
    return response.status, answer
