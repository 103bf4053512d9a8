"""The providers' clients for the demo itself, made from the very connections that the DAGs use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Protocol

import polars as pl

from cloudflux.domain.tiers import Provider
from cloudflux.providers.protocol import ObjectStore, TierClient


class Client(ObjectStore, TierClient, Protocol):
    """A provider's client: reads and writes files, and looks at their classes."""


def clients_of(environment: Mapping[str, str]) -> dict[Provider, Client]:
    """Make one client per cloud from a stack's ``AIRFLOW_CONN_*`` variables."""
    return {
        Provider.AWS: _aws(json.loads(environment["AIRFLOW_CONN_AWS_DEFAULT"])),
        Provider.AZURE: _azure(json.loads(environment["AIRFLOW_CONN_WASB_DEFAULT"])),
        Provider.GCP: _gcp(json.loads(environment["AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT"])),
    }


def tiers_of(clients: Mapping[Provider, Client], buckets: list[tuple[Provider, str]]) -> pl.DataFrame:
    """List the buckets live. Gives ``provider``, ``storage_class``, ``tier``, ``objects`` and ``bytes``, sorted."""
    day = datetime.now(UTC).date()
    frames = [
        listed.group_by("provider", "storage_class", "tier").agg(
            objects=pl.len().cast(pl.Int64), bytes=pl.col("size_bytes").sum()
        )
        for provider, bucket in buckets
        for listed in _listed(clients[provider], bucket, day)
    ]
    columns = ("provider", "storage_class", "tier")
    if not frames:
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.String) | {"objects": pl.Int64, "bytes": pl.Int64})
    return pl.concat(frames).group_by(columns).agg(pl.col("objects", "bytes").sum()).sort(columns)


def _listed(client: Client, bucket: str, day: date) -> list[pl.DataFrame]:
    columns = ["provider", "storage_class", "tier", "size_bytes"]
    return [pl.DataFrame(batch.select(columns)) for batch in client.list_inventory(bucket, day)]


def _aws(connection: Mapping[str, Any]) -> Client:
    import boto3
    from botocore.config import Config

    from cloudflux.providers.aws import AwsTierClient

    extra = connection["extra"]
    s3 = boto3.client(
        "s3",
        endpoint_url=extra["endpoint_url"],
        region_name=extra["region_name"],
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
        config=Config(**extra.get("config_kwargs", {})),
    )
    return AwsTierClient(s3)


def _azure(connection: Mapping[str, Any]) -> Client:
    from azure.storage.blob import BlobServiceClient

    from cloudflux.providers.azure import AzureTierClient

    return AzureTierClient(BlobServiceClient.from_connection_string(connection["extra"]["connection_string"]))


def _gcp(connection: Mapping[str, Any]) -> Client:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client as GoogleClient

    from cloudflux.providers.gcp import GcpTierClient

    extra = connection["extra"]
    return GcpTierClient(
        GoogleClient(
            project=extra["project"],
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": extra["endpoint"]},
        )
    )
