"""The environment variables that every process of the stack sees."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cloudflux.local import azure, postgres
from cloudflux.local.layout import REPOSITORY, Layout, Secrets
from cloudflux.local.ports import LOOPBACK

SHARDS: Final = 2  # as many as a small machine has cores: each shard's task loads the libraries anew
GCP_PROJECT: Final = "cloudflux-local"
_USER_AGENT: Final = "cloudflux/0.1"


def stack_environment(
    layout: Layout, secrets: Secrets, ports: Mapping[str, int], replacing: Mapping[str, str]
) -> dict[str, str]:
    """Give the variables; a setting that replaces a part of the stack keeps its value."""
    own = {
        "CLOUDFLUX_STACK": str(layout.root),
        "CLOUDFLUX_DATABASE_URL": postgres.database_url("cloudflux", secrets, ports["postgres"], "psycopg"),
        "CLOUDFLUX_LAKE_URL": str(layout.lake),
        "CLOUDFLUX_ESTATE": str(layout.estate),
        "CLOUDFLUX_SHARDS": str(SHARDS),
        "KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:{ports['kafka']}",
        "MLFLOW_TRACKING_URI": f"http://{LOOPBACK}:{ports['mlflow']}",
        **_connections(secrets, ports),
        **_airflow(layout, secrets, ports),
        **_frugality(),
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / folder) for folder in ("include", "ml")),
        "PYTHONUNBUFFERED": "1",
        # a proxy of the machine must not be asked for what listens on loopback
        "NO_PROXY": f"{LOOPBACK},localhost",
        "no_proxy": f"{LOOPBACK},localhost",
    }
    if "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT" in replacing:
        del own["STORAGE_EMULATOR_HOST"]
    return {**own, **replacing}


def _connections(secrets: Secrets, ports: Mapping[str, int]) -> dict[str, str]:
    gcs = f"http://{LOOPBACK}:{ports['gcs']}"
    aws_connection = {
        "conn_type": "aws",
        "login": secrets.s3_access_key,
        "password": secrets.s3_secret_key,
        "extra": {
            "endpoint_url": f"http://{LOOPBACK}:{ports['s3']}",
            "region_name": "us-east-1",
            "config_kwargs": {
                "max_pool_connections": 32,  # 10 otherwise: threads would wait for each other
                "s3": {"addressing_style": "path"},  # a bucket is no host name on loopback
                "user_agent_extra": _USER_AGENT,
            },
        },
    }
    wasb_connection = {
        "conn_type": "wasb",
        "extra": {"connection_string": azure.connection_string(secrets.azure_account_key, ports["azure"])},
    }
    google_connection = {
        "conn_type": "google_cloud_platform",
        "extra": {"project": GCP_PROJECT, "is_anonymous": True, "endpoint": gcs},
    }
    return {
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws_connection),
        "AIRFLOW_CONN_WASB_DEFAULT": json.dumps(wasb_connection),
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(google_connection),
        # GCSHook takes no endpoint from a connection
        "STORAGE_EMULATOR_HOST": gcs,
    }


def passwords_file(layout: Layout) -> Path:
    """Give the path of SimpleAuthManager's passwords."""
    return layout.airflow / "passwords.json"


def _airflow(layout: Layout, secrets: Secrets, ports: Mapping[str, int]) -> dict[str, str]:
    address = f"http://{LOOPBACK}:{ports['airflow']}"
    return {
        "AIRFLOW_HOME": str(layout.airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # a busy machine is slow, not broken: 30 s are the default
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "180",
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "240",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__FERNET_KEY": secrets.airflow_fernet_key,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,viewer:viewer",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords_file(layout)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.database_url("airflow", secrets, ports["postgres"], "psycopg2"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE": "3",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW": "7",
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(ports["airflow"]),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": secrets.airflow_secret_key,
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.airflow_jwt_secret,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(layout.airflow / "logs"),
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        # parsing seven files anew every 30 s, the default, takes half of a core all the time
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
    }


def _frugality() -> dict[str, str]:
    """Small memory, few threads, and no calls home."""
    return {
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "2",
        "POLARS_MAX_THREADS": "2",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "DO_NOT_TRACK": "true",
        # process titles must not overwrite the environment, by which `down` knows the stack's processes
        "SPT_NOENV": "1",
    }
