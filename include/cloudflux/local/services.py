"""The names of the stack's services, what each needs, and what is lost without it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cloudflux.local.errors import StackError

AIRFLOW: Final = ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
SERVICES: Final = ("postgres", "kafka", "s3", "azure", "gcs", "mlflow", *AIRFLOW)
"""In the order of starting; they stop in the reverse order."""

STOP_WAVES: Final = (AIRFLOW, ("mlflow", "gcs", "azure", "s3", "kafka"), ("postgres",))

LOST_WITHOUT: Final[Mapping[str, str]] = {
    "postgres": "nothing can be stored: Airflow, MLflow and CloudFlux's own tables need databases from settings",
    "kafka": "drain_ingestion_topic has no broker and fails; new objects are seen only by the next inventory",
    "s3": "there are no S3 buckets: aws_default has no endpoint here",
    "azure": "there are no Azure containers: wasb_default has no endpoint here",
    "gcs": "there are no GCS buckets: google_cloud_default has no endpoint here",
    "mlflow": "no forecaster is trained or loaded: objects are scored by the cold-start rule alone",
    "airflow": "no DAG runs and there is no web page of Airflow: only the services beside it are up",
}

_REPLACED_BY: Final[Mapping[str, str]] = {
    "KAFKA_BOOTSTRAP_SERVERS": "kafka",
    "AIRFLOW_CONN_AWS_DEFAULT": "s3",
    "AIRFLOW_CONN_WASB_DEFAULT": "azure",
    "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": "gcs",
    "MLFLOW_TRACKING_URI": "mlflow",
}

_FROM_SETTINGS: Final = (
    *_REPLACED_BY,
    "CLOUDFLUX_DATABASE_URL",
    "CLOUDFLUX_LAKE_URL",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which services a start brings up, which are left out and which are somebody else's."""

    start: tuple[str, ...]
    left_out: tuple[str, ...]
    replaced: Mapping[str, str]
    """Service or part to the setting that replaces it."""


def settings_that_replace(environment: Mapping[str, str]) -> dict[str, str]:
    """Give the settings by which a real service replaces a part of the stack, with their values.

    An environment that a stack made itself (it carries `CLOUDFLUX_STACK`) replaces nothing.
    """
    if environment.get("CLOUDFLUX_STACK"):
        return {}
    return {name: environment[name] for name in _FROM_SETTINGS if environment.get(name)}


def plan_services(
    only: Collection[str] | None = None, without: Collection[str] = (), replacing: Mapping[str, str] | None = None
) -> Plan:
    """Decide what to start. Raises ``StackError`` for a name that is no service."""
    replacing = replacing or {}
    left_out = set(expand(without))
    wanted = set(expand(only)) if only is not None else set(SERVICES)
    if only is not None:
        # what was asked for by name brings what it stands on
        if wanted & {"mlflow", *AIRFLOW}:
            wanted.add("postgres")
        left_out |= set(SERVICES) - wanted
    replaced = {service: setting for setting, service in _REPLACED_BY.items() if setting in replacing}
    for setting, part in (
        ("CLOUDFLUX_DATABASE_URL", "cloudflux database"),
        ("CLOUDFLUX_LAKE_URL", "lake"),
        ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "airflow database"),
    ):
        if setting in replacing:
            replaced[part] = setting
    start = [service for service in SERVICES if service in wanted - left_out and service not in replaced]
    unneeded = (
        "airflow database" in replaced or not set(start) & set(AIRFLOW),
        "cloudflux database" in replaced,
        "mlflow" not in start,
    )
    if all(unneeded) and "postgres" in start:
        start.remove("postgres")
        replaced["postgres"] = "CLOUDFLUX_DATABASE_URL"
    if "postgres" in left_out and "postgres" not in replaced:
        for service in start:
            if service == "mlflow" or (service in AIRFLOW and "airflow database" not in replaced):
                raise StackError(f"{service} needs a database: leave {service.split('-')[0]} out too, or keep postgres")
    return Plan(tuple(start), tuple(service for service in SERVICES if service in left_out), replaced)


def expand(names: Iterable[str]) -> list[str]:
    """Read names as people write them: `airflow` is all four of its processes. Raises ``StackError`` for others."""
    services: list[str] = []
    for name in names:
        if name == "airflow":
            services.extend(AIRFLOW)
        elif name in SERVICES:
            services.append(name)
        else:
            raise StackError(f"there is no service {name!r}: choose from {', '.join(('airflow', *SERVICES))}")
    return services
